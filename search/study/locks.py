"""Locks that die with their holder: the kernel gives an `flock` back however a process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

__all__ = ["FileLock", "is_held"]


class FileLock:
    """An exclusive lock on a file, for one thread of one process at a time.

    Args:
        path: the lock file; created, never deleted, so that no two processes lock two files of one name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = threading.Lock()
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Wait until the lock is ours; always True."""
        self._thread.acquire()
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
            except BaseException:
                os.close(handle)
                raise
        except BaseException:
            self._thread.release()
            raise
        self._handle = handle
        return True

    def release(self) -> None:
        """Give the lock back."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
            self._thread.release()

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __getstate__(self) -> dict[str, Path]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock on `path`; a file that does not exist is held by nobody."""
    with contextlib.suppress(FileNotFoundError), _opened(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDWR)
    try:
        yield handle
    finally:
        os.close(handle)
