"""The one atomic writer: a reader, or a crash, sees the old file or the whole new one, and what was written stays."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["is_temporary", "move", "write_atomic", "write_whole"]

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\..+|\..+\.[0-9a-f]{32}")  # the second as it was named before November 2026
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}  # a file system that syncs no folders


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file beside `path`, then put it in place.

    Raises:
        OSError: it cannot be written; whatever `write` raises. The old file then stays.
    """
    temporary = path.with_name(
        f".{uuid.uuid4().hex}.{path.name}"
    )  # beside it: one disk; torch and onnx go by the suffix
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
