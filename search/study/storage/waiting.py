"""Waiting for a storage that went away, and for the locks that keep its users apart, which die with their holder.

Which errors mean that a storage is away, how long to wait, what to say; an `flock`, which the kernel gives back however a
process ends; and a study's lock on top of it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from search.ledger.secrets import mask
from search.ledger.study_files import WORKERS

log = logging.getLogger("xvol")
T = TypeVar("T")
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0  # seconds between two tries
CONNECT_SECONDS = 10

# A full disk, a disk that fails or is taken away, a file server that does not answer, locks that are not to be had now.
_DISK_ERRORS = (
    "ENOSPC EDQUOT EFBIG EIO EREMOTEIO ESTALE EROFS ENXIO ENODEV ENOLCK EAGAIN ETIMEDOUT EHOSTDOWN EHOSTUNREACH ENETDOWN "
    "ENETUNREACH ECONNRESET ECONNREFUSED ECONNABORTED EPIPE ENOTCONN ESHUTDOWN EMFILE ENFILE"
)
_DISK = {getattr(errno, name) for name in _DISK_ERRORS.split() if hasattr(errno, name)}
_SQLITE = {5, 6, 8, 10, 13, 14}  # busy, locked, read-only, I/O error, full, cannot open
# SQLSTATE classes: connection, rollback (deadlock), resources (too many connections, disk full), object in use
# (lock timeout), intervention by the operator (shutdown, start-up), system error; and a server that became a standby
_SQL_CLASSES, _SQL_STATES = ("08", "40", "53", "55", "57", "58"), ("25006",)
_REFUSED = ("authentication failed", "does not exist", "no pg_hba.conf entry", "no password supplied", "not permitted")
_REDIS_AWAY_ERRORS = "ConnectionError TimeoutError ReadOnlyError OutOfMemoryError ClusterDownError TryAgainError"
_REDIS_REFUSED = ("AuthenticationError", "AuthorizationError", "ExternalAuthProviderError")


class StorageGone(RuntimeError):
    """The study's storage was away for longer than its users were willing to wait."""


class Away(Exception):
    """A database's connection broke. No SQLAlchemyError, so that Optuna does not try again by itself."""


def is_away(error: BaseException) -> bool:
    """Whether `error` says that the storage cannot be reached, or cannot write, for now.

    Wrong passwords, missing databases, integrity errors, finished trials, duplicate studies and unknown keys do not.
    """
    if isinstance(error, Away):
        return True
    if isinstance(error, OSError):
        return error.errno in _DISK or isinstance(error, ConnectionError | TimeoutError)
    if (found := _of_database(error)) is not None:
        return found
    return _of_redis(error)


def _of_database(error: BaseException) -> bool | None:
    exceptions = sys.modules.get("sqlalchemy.exc")
    if exceptions is None:
        return None
    cause = error
    if not isinstance(cause, exceptions.SQLAlchemyError) and isinstance(error.__cause__, exceptions.SQLAlchemyError):
        cause = error.__cause__  # Optuna wraps it
    if not isinstance(cause, exceptions.DBAPIError):
        return None
    if cause.connection_invalidated:
        return True
    if isinstance(cause, exceptions.IntegrityError | exceptions.DataError | exceptions.ProgrammingError):
        return False
    original: Any = cause.orig
    if (code := getattr(original, "sqlite_errorcode", None)) is not None:
        return int(code) & 0xFF in _SQLITE
    if state := getattr(original, "sqlstate", None) or getattr(original, "pgcode", None):
        return str(state).startswith(_SQL_CLASSES) or state in _SQL_STATES
    broken = isinstance(cause, exceptions.OperationalError | exceptions.InterfaceError)
    return broken and not any(word in str(original) for word in _REFUSED)


def _of_redis(error: BaseException) -> bool:
    exceptions: Any = sys.modules.get("redis.exceptions")
    if exceptions is None or not isinstance(error, exceptions.RedisError):
        return False
    if isinstance(error, tuple(getattr(exceptions, name) for name in _REDIS_REFUSED if hasattr(exceptions, name))):
        return False
    away = tuple(getattr(exceptions, name) for name in _REDIS_AWAY_ERRORS.split() if hasattr(exceptions, name))
    return isinstance(error, away) or str(error).startswith("MISCONF")  # the server cannot write to its disk


class Patience:
    """How long the users of one storage wait for it, together.

    The clock runs from the first call that failed until one succeeds, whichever of the storage's calls they are. So a
    call after `StorageGone` does not wait a second time.

    Args:
        what: the storage, in words for the user; must hold no password.
        seconds: how long to wait before `StorageGone`.

    Attributes:
        before_retry: what takes again what went away with the storage: locks.
    """

    def __init__(self, what: str, seconds: float) -> None:
        self.what, self.seconds = what, seconds
        self.before_retry: list[Callable[[], None]] = []
        self._since: float | None = None
        self._state = threading.Lock()

    def call(self, function: Callable[..., T], *arguments: Any, retry: Callable[[], T] | None = None) -> T:
        """`function(*arguments)`, again and again while the storage is away.

        Args:
            retry: what to call instead from the second time on: it must see to a first call that went through although
                its answer was lost.

        Raises:
            StorageGone: it was away for too long.
        """
        outage: Outage | None = None
        while True:
            try:
                if outage is None:
                    return function(*arguments)
                for renew in list(self.before_retry):
                    renew()
                result = function(*arguments) if retry is None else retry()
            except Exception as error:
                outage = outage or Outage(self)
                outage.wait(error)
            else:
                self.came_back()
                return result

    def went(self, error: BaseException) -> float:
        """The storage is away; return for how many seconds."""
        with self._state:
            first = self._since is None
            since = self._since = time.monotonic() if self._since is None else self._since
        if first and self.seconds > 0:
            log.warning("%s does not answer (%s); waiting for it, up to %g s", self.what, _words(error), self.seconds)
        return time.monotonic() - since

    def came_back(self) -> None:
        """The storage has answered."""
        with self._state:
            since, self._since = self._since, None
        if since is not None:
            log.warning("%s is back after %.0f s; going on", self.what, time.monotonic() - since)


class Outage:
    """One call's waiting, longer after each failure."""

    def __init__(self, patience: Patience) -> None:
        self._patience, self._pause = patience, FIRST_WAIT

    def wait(self, error: BaseException) -> None:
        """Sleep a while; raise `error` where it does not mean that the storage is away, StorageGone after too long."""
        if not is_away(error):
            raise error
        patience = self._patience
        away = patience.went(error)
        if away >= patience.seconds:
            raise StorageGone(
                f"{patience.what} has not answered for {away:.0f} s ({_words(error)}). What was finished is kept. Once it is "
                "back, give the same command again: the study goes on where it stood"
            ) from error
        time.sleep(min(self._pause * random.uniform(0.75, 1.25), max(0.0, patience.seconds - away)))
        self._pause = min(2 * self._pause, LONGEST_WAIT)


def _words(error: BaseException) -> str:
    cause = error.__cause__ if error.__cause__ is not None else error
    lines = mask(str(getattr(cause, "orig", None) or cause)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # what a disk without flock answers


class FileLock:
    """An exclusive lock on a file, among processes and among threads: each takes it on a handle of its own.

    Args:
        path: the lock file; created, never deleted, so that no two processes lock two files of one name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None  # of whoever holds it

    def acquire(self) -> bool:
        """Wait until the lock is ours; always True.

        Raises:
            OSError: the file cannot be opened, or its disk knows no locks.
        """
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        return True

    def release(self) -> None:
        """Give the lock back."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def touch(self) -> None:
        """Set the file's time to now, by the clock of the machine that holds the disk; OSError where it cannot be."""
        if (handle := self._handle) is not None:
            os.utime(handle)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Whether a living process of this machine holds the lock on `path`; a file that does not exist is held by nobody."""
    with contextlib.suppress(FileNotFoundError), path.open("rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who ask do not see each other
        except BlockingIOError:
            return True
    return False


class ServerLock(Protocol):
    """A lock that a storage's server keeps."""

    patience: Patience

    def acquire(self) -> None:
        """Wait until the lock is ours."""

    def release(self) -> None:
        """Give it back; never raises, since a server that is away has forgotten its locks."""

    def ensure(self) -> None:
        """Take it again where it was lost with the server."""


@contextlib.contextmanager
def study_lock(storage: Any, study_dir: Path, study_name: str) -> Iterator[None]:
    """Inside of it is at most one worker of the study, on any host. Not reentrant.

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
    server: ServerLock | None = None if make is None else make(study_name)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(FileLock(folder / ".claims.lock"))
        except OSError as failure:
            if failure.errno not in _NO_LOCKS:
                raise
            if server is None:
                raise ValueError(
                    f"the disk of {folder} has no file locks ({failure.strerror}), so two workers could take "
                    "one trial: mount it with locks, or take a server: hydra.sweeper.storage=postgresql://USER@HOST/NAME"
                ) from None
        if server is not None:
            server.patience.call(server.acquire)
            held.callback(server.release)
            server.patience.before_retry.append(server.ensure)
            held.callback(server.patience.before_retry.remove, server.ensure)
        yield
