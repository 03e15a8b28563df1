"""Locks that a study's server keeps: an advisory lock of PostgreSQL, a lease in Redis."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from typing import TYPE_CHECKING, Protocol

from search.study.storage.patience import Patience

if TYPE_CHECKING:
    import redis
    from redis.lock import Lock as RedisLock
    from sqlalchemy import Connection, Engine

__all__ = ["AdvisoryLock", "LeaseLock", "ServerLock"]

LEASE_SECONDS = 30.0  # of Redis: how long a dead holder keeps others out


class ServerLock(Protocol):
    """A lock that a storage's server keeps."""

    patience: Patience

    def acquire(self) -> None:
        """Wait until the lock is ours."""

    def release(self) -> None:
        """Give it back; never raises, since a server that is away has forgotten its locks."""

    def ensure(self) -> None:
        """Take it again where it was lost with the server."""


class AdvisoryLock:
    """A session's advisory lock in PostgreSQL, on a connection of its own that is kept between two uses.

    The server gives the lock back when the connection ends: at once where the holder's process dies, after about half
    a minute where its machine does (keep-alive probes).
    """

    def __init__(self, engine: Engine, patience: Patience, name: str) -> None:
        self.patience = patience
        self._engine = engine
        self._key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)
        self._connection: Connection | None = None
        self._gate, self._mutex = threading.Lock(), threading.Lock()

    def acquire(self) -> None:
        """Wait until the lock is ours."""
        self._gate.acquire()  # PostgreSQL lets one session in twice
        try:
            with self._mutex:
                self._take()
        except BaseException:
            self._gate.release()
            raise

    def _take(self) -> None:
        from sqlalchemy import text

        lock = text("SELECT pg_advisory_lock(:key)").bindparams(key=self._key)
        try:
            if self._connection is not None:
                with contextlib.suppress(Exception):
                    self._connection.execute(lock)
                    return
                self._drop()  # it ended while nobody used it
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            for name, value in (("idle", 15), ("interval", 5), ("count", 3)):
                self._connection.execute(text(f"SET tcp_keepalives_{name} = {value}"))
            self._connection.execute(lock)
        except BaseException:
            self._drop()
            raise

    def ensure(self) -> None:
        """Take the lock again where it was lost with the server."""
        from sqlalchemy import text

        with self._mutex:
            if self._connection is not None:
                with contextlib.suppress(Exception):
                    self._connection.execute(text("SELECT 1"))
                    return
                self._drop()
            self._take()

    def release(self) -> None:
        """Give the lock back; never raises."""
        from sqlalchemy import text

        with self._mutex:
            if self._connection is not None:
                try:
                    self._connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": self._key})
                except Exception:
                    self._drop()
        self._gate.release()

    def close(self) -> None:
        """End the connection."""
        with self._mutex:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.invalidate()  # never back into the pool: it may still hold the lock
            with contextlib.suppress(Exception):
                connection.close()


class LeaseLock:
    """A key in Redis that expires; a thread renews it while it is held, so a dead holder's goes after LEASE_SECONDS."""

    def __init__(self, client: redis.Redis, patience: Patience, name: str) -> None:
        self.patience = patience
        self._client, self._name = client, name
        self._lock: RedisLock | None = None
        self._done = threading.Event()
        self._mutex = threading.Lock()

    def acquire(self) -> None:
        """Wait until the lock is ours; renew it from then on."""
        with self._mutex:
            self._take()
        self._done = threading.Event()
        threading.Thread(target=self._renew, args=(self._done,), daemon=True, name="xvol-lease").start()

    def _take(self) -> None:
        lock = self._client.lock(self._name, timeout=LEASE_SECONDS, sleep=0.005, thread_local=False)
        lock.acquire()
        self._lock = lock

    def _renew(self, done: threading.Event) -> None:
        while not done.wait(LEASE_SECONDS / 3):
            with self._mutex, contextlib.suppress(Exception):  # away, or lost: `ensure` sees to both
                if not done.is_set() and self._lock is not None:
                    self._lock.reacquire()

    def ensure(self) -> None:
        """Take the lock again where it was lost with the server."""
        with self._mutex:
            if self._lock is None or not self._lock.owned():
                self._take()

    def release(self) -> None:
        """Give the lock back; never raises."""
        self._done.set()
        with self._mutex:
            lock, self._lock = self._lock, None
            if lock is not None:
                with contextlib.suppress(Exception):  # not ours any more, or the server is away: it expires
                    lock.release()
