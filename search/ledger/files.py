"""The one atomic writer and the one digest, what a full disk looks like, and what to say of a file that a newer version wrote."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\..+|\..+\.[0-9a-f]{32}")  # the second as it was named before November 2026
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ROOM = 1 << 20  # bytes that must fit before it is worth going on
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}  # a file system that syncs no folders


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file beside `path`, then put it in place; whatever goes wrong, the old file stays."""
    # beside it: one disk; torch and onnx go by the suffix
    temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        move(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write text or bytes to `path`, whole or not at all."""
    data = content.encode("utf-8", errors="backslashreplace") if isinstance(content, str) else content
    write_whole(path, lambda temporary: temporary.write_bytes(data))


def move(source: Path, target: Path) -> None:
    """Rename on one disk, in place of what was there, so that a power cut cannot undo it."""
    os.replace(source, target)
    for folder in {source.parent, target.parent}:  # a rename is an entry of a folder, which is synced on its own
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
        finally:
            with contextlib.suppress(OSError):
                os.close(handle)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that a killed writer left."""
    return _TEMPORARY.fullmatch(name) is not None


def is_disk_full(error: BaseException | None) -> bool:
    """Whether `error`, or what it came from, says that a disk is full or a quota is used up."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def try_room(folder: Path) -> None:
    """Write a file of a MiB to `folder`, and delete it; OSError where it does not fit, or the folder cannot be written to."""
    probe = folder / f".{uuid.uuid4().hex}.room"
    try:
        with probe.open("wb") as file:
            file.write(bytes(_ROOM))
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)


class NewerVersion(ValueError):
    """A file is whole, but of a later version than this one reads; it must not be taken for damaged."""


def refuse_newer(what: object, kind: str, found: Any, known: int) -> None:
    """Raise NewerVersion where `found`, the number of its `kind` ("schema", "layout") in `what`, is above `known`."""
    if isinstance(found, int) and not isinstance(found, bool) and found > known:
        raise NewerVersion(
            f"{what}: written by a newer version of xvol ({kind} {found}; this version reads {kind} {known}); "
            "update xvol, or go on with the version that wrote it"
        )


def digest(value: Any) -> str:
    """Ten hexadecimal digits of a JSON-able value; equal values have equal digits in every process and version."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
