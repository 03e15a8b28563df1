"""Locks that die with their holder: the kernel gives an `flock` back however a process ends; a study's lock on top of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from search.ledger.paths import WORKERS
from search.study.storage.patience import Patience

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # what a disk without flock answers


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
        """Wait until the lock is ours; always True.

        Raises:
            OSError: the file cannot be opened, or its disk knows no locks.
        """
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
            try:
                os.close(handle)
            finally:
                self._thread.release()

    def touch(self) -> None:
        """Set the file's time to now, by the clock of the machine that holds the disk; OSError where it cannot be."""
        if (handle := self._handle) is not None:
            os.utime(handle)

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __getstate__(self) -> dict[str, Path]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]


def is_held(path: Path) -> bool:
    """Whether a living process of this machine holds the lock on `path`; a file that does not exist is held by nobody."""
    with contextlib.suppress(FileNotFoundError), _opened(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who ask do not see each other
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


class ServerLock(Protocol):
    """A lock that a storage's server keeps."""

    patience: Patience

    def acquire(self) -> None:
        """Wait until the lock is ours."""

    def release(self) -> None:
        """Give it back; never raises, since a server that is away has forgotten its locks."""

    def ensure(self) -> None:
        """Take it again where it was lost with the server."""


class StudyLock:
    """See `study_lock`."""

    def __init__(self, path: Path, server: ServerLock | None) -> None:
        self._file, self._server = FileLock(path), server
        self._thread = threading.Lock()

    def __enter__(self) -> StudyLock:
        self._thread.acquire()
        try:
            self._lock_file()
            if self._server is not None:
                self._server.patience.call(self._server.acquire)
                self._server.patience.before_retry.append(self._server.ensure)
        except BaseException:
            self._file.release()
            self._thread.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._server is not None:
                self._server.patience.before_retry.remove(self._server.ensure)
                self._server.release()
        finally:
            self._file.release()
            self._thread.release()

    def _lock_file(self) -> None:
        try:
            self._file.acquire()
        except OSError as failure:
            if failure.errno not in _NO_LOCKS:
                raise
            if self._server is None:
                raise ValueError(
                    f"the disk of {self._file.path.parent} has no file locks ({failure.strerror}), so two workers could take "
                    "one trial: mount it with locks, or take a server: hydra.sweeper.storage=postgresql://USER@HOST/NAME"
                ) from None


def study_lock(storage: Any, study_dir: Path, study_name: str) -> StudyLock:
    """A context manager that at most one worker of the study, on any host, is inside of. Not reentrant; used many times.

    The lock file in the study's folder excludes the workers of one machine, and those of others where the shared disk
    passes `flock` on. PostgreSQL and Redis add a lock on the server, which all hosts see. Where the server goes away
    while the lock is held, it is taken again before the interrupted call goes on; in between, only the file keeps others
    out. All of them end with their holder: a file's and PostgreSQL's at once, Redis' after 30 s.

    Args:
        storage: as `open_storage` gave it. With any other the file alone is locked.
        study_dir: the study's folder.
        study_name: the study's name; a server may hold several studies.

    Raises:
        ValueError: on entering: the folder's disk has no file locks, and there is no server to lock on.
        StorageGone: on entering: the server was away for longer than the storage's patience.
    """
    folder = study_dir / WORKERS
    folder.mkdir(parents=True, exist_ok=True)
    make = getattr(storage, "server_lock", None)
    return StudyLock(folder / ".claims.lock", None if make is None else make(study_name))
