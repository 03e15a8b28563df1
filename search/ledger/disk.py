"""A full disk is nobody's fault: which errors mean it, and waiting until there is room again."""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["is_disk_full", "wait_for_space"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_ROOM = 1 << 20  # bytes that must fit before it is worth going on
_WAITS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between two tries; the last one for ever


def is_disk_full(error: BaseException) -> bool:
    """Whether `error`, or what it came from, says that a disk is full or a quota is used up."""
    return any(isinstance(each, OSError) and each.errno in _FULL for each in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def wait_for_space(folder: Path, seconds: float, stop: Callable[[], bool] = lambda: False) -> bool:
    """Wait until a file of a MiB can be written to `folder`; return whether it can.

    Args:
        folder: an existing folder.
        seconds: how long to wait; 0 tries once.
        stop: asked between two tries; True ends the waiting.

    Raises:
        OSError: the folder cannot be written to for another reason.
    """
    end, turn = time.monotonic() + seconds, 0
    while not _has_room(folder):
        left = end - time.monotonic()
        if left <= 0 or stop():
            return False
        time.sleep(min(_WAITS[min(turn, len(_WAITS) - 1)], left))
        turn += 1
    return True


def _has_room(folder: Path) -> bool:
    probe = folder / f".{uuid.uuid4().hex}.room"
    try:
        with probe.open("wb") as file:
            file.write(bytes(_ROOM))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in _FULL:
            raise
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True
