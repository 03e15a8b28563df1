"""Waiting for a storage that went away: which errors mean that it is away, how long to wait, what to say."""

from __future__ import annotations

import errno
import logging
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from search.ledger.secrets import mask

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
_REDIS_AWAY = (
    "ConnectionError",
    "TimeoutError",
    "ReadOnlyError",
    "OutOfMemoryError",
    "ClusterDownError",
    "TryAgainError",
)
_REDIS_REFUSED = ("AuthenticationError", "AuthorizationError", "ExternalAuthProviderError")


class StorageGone(RuntimeError):
    """The study's storage was away for longer than its users were willing to wait."""


class Away(Exception):
    """A database's connection broke. No SQLAlchemyError, so that Optuna does not try again by itself; see `proxies`."""


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
    away = tuple(getattr(exceptions, name) for name in _REDIS_AWAY if hasattr(exceptions, name))
    return isinstance(error, away) or str(error).startswith("MISCONF")  # the server cannot write to its disk


class Patience:
    """How long the users of one storage wait for it, together.

    The clock runs from the first call that failed until one succeeds, whichever of the storage's calls they are. So a
    call after `StorageGone` does not wait a second time.

    Args:
        what: the storage, in words for the user; must hold no password.
        seconds: how long to wait before `StorageGone`.
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
        try:
            return function(*arguments)
        except Exception as error:
            outage = Outage(self)
            outage.wait(error)
        while True:
            try:
                outage.prepare()
                result = function(*arguments) if retry is None else retry()
            except Exception as error:
                outage.wait(error)
            else:
                outage.end()
                return result

    def went(self, error: BaseException) -> float:
        """The storage is away; return for how many seconds."""
        with self._state:
            first = self._since is None
            if self._since is None:
                self._since = time.monotonic()
            away = time.monotonic() - self._since
        if first and self.seconds > 0:
            log.warning("%s does not answer (%s); waiting for it, up to %g s", self.what, _words(error), self.seconds)
        return away

    def came_back(self) -> None:
        """The storage has answered."""
        with self._state:
            since, self._since = self._since, None
        if since is not None:
            log.warning("%s is back after %.0f s; going on", self.what, time.monotonic() - since)

    def __getstate__(self) -> dict[str, Any]:
        return {"what": self.what, "seconds": self.seconds}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class Outage:
    """One call's waiting: `wait` after each failure, `prepare` before each further try, `end` after the one that went well."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._pause = FIRST_WAIT

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

    def prepare(self) -> None:
        """Take again what went away with the storage: locks."""
        for renew in list(self._patience.before_retry):
            renew()

    def end(self) -> None:
        """The call went well."""
        self._patience.came_back()


def _words(error: BaseException) -> str:
    cause = error.__cause__ if error.__cause__ is not None else error
    lines = mask(str(getattr(cause, "orig", None) or cause)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
