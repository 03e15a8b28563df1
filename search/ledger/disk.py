"""A full disk is nobody's fault: which errors mean it, and whether there is room again."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["is_disk_full", "try_room"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_ROOM = 1 << 20  # bytes that must fit before it is worth going on


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


def try_room(folder: Path) -> None:
    """Write a file of a MiB to `folder`, and delete it.

    Raises:
        OSError: it does not fit, or the folder cannot be written to for another reason.
    """
    probe = folder / f".{uuid.uuid4().hex}.room"
    try:
        with probe.open("wb") as file:
            file.write(bytes(_ROOM))
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)
