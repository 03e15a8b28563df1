"""Optuna's journal on a disk that may be full and in a Redis that may restart: each record is written once, whatever fails."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from search.study.storage.waiting import FileLock, Outage, Patience, ServerLock

if TYPE_CHECKING:
    import redis
    from redis.lock import Lock as RedisLock

OPERATIONS = range(10)  # of Optuna 3.1 to 5.0: from "create a study" to "set a trial's system attribute"


@dataclass(frozen=True)
class BadLine:
    """A line, counted from 1, that Optuna cannot read, and with it nothing that follows; what is before `offset` is sound.

    Attributes:
        newer: it is a whole record of a later Optuna, so no damage.
        torn: it is the last one and has no end: the next writer cuts it off by itself.
    """

    number: int
    offset: int
    why: str
    newer: bool = False
    torn: bool = False


def first_bad_line(journal: Path) -> BadLine | None:
    """The first line that is no record; None where all are.

    Raises:
        OSError: the file cannot be read.
    """
    offset = 0
    with journal.open("rb") as file:
        for number, line in enumerate(file, start=1):
            record = _record(line)
            if not line.endswith(b"\n"):
                return BadLine(number, offset, "it was not written to its end", torn=True)
            if record is None:
                return BadLine(number, offset, f"it is no record: {_shown(line)}")
            if record["op_code"] not in OPERATIONS:
                why = f"operation {record['op_code']}, of a newer Optuna; this version reads 0 to {OPERATIONS[-1]}"
                return BadLine(number, offset, why, newer=True)
            offset += len(line)
    return None


def names_of_studies(journal: Path) -> set[str]:
    """The studies that the sound lines of a journal create."""
    with journal.open("rb") as file:
        records = (_record(line) for line in file)
        return {str(record["study_name"]) for record in records if record and record["op_code"] == 0}


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and isinstance(record.get("op_code"), int) and "worker_id" in record
    return record if whole else None


def _shown(line: bytes) -> str:
    text = line[:40].decode("utf-8", errors="backslashreplace").rstrip("\n")
    return repr(text) + ("..." if len(line) > 40 else "")


@contextlib.contextmanager
def writing(journal: Path) -> Iterator[int]:
    """The journal, open for its only writer, who finds it without the half line that a dying process may have left.

    Optuna's own lock files outlive a killed holder by half a minute, and a torn line makes the next append unreadable.
    """
    with FileLock(journal.with_name(journal.name + ".lock")):
        handle = os.open(journal, os.O_RDWR)
        try:
            _cut_torn_line(handle)
            yield handle
        finally:
            os.close(handle)


def _cut_torn_line(handle: int) -> None:
    end = os.fstat(handle).st_size
    if not end or os.pread(handle, 1, end - 1) == b"\n":
        return
    keep = end
    while keep > 0:
        start = max(0, keep - 4096)
        newline = os.pread(handle, keep - start, start).rfind(b"\n")
        if newline >= 0:
            keep = start + newline + 1
            break
        keep = start
    os.ftruncate(handle, keep)


class FileJournal(JournalFileBackend):
    """Optuna's journal file, whose reads and appends wait for a disk that is full or away.

    Waiting here, and not around the storage's methods, keeps a record from being written twice: a method may fail after
    its record was written. A record that may already stand in the file, since only `fsync` failed, is looked for where
    it would stand.
    """

    def __init__(self, path: Path, patience: Patience) -> None:
        self.patience, self._path = patience, path
        super().__init__(str(path))  # Optuna's lock is of its own appends, which are not ours

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """The records from number `log_number_from` on."""
        outage: Outage | None = None
        number = log_number_from
        while True:
            try:
                for record in super().read_logs(number):
                    number += 1
                    yield record
            except OSError as error:
                outage = outage or Outage(self.patience)
                outage.wait(error)
            else:
                if outage is not None:
                    self.patience.came_back()
                return

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append the records, each once, and have the disk confirm them."""
        for log in logs:
            stands_at: list[int] = []  # where an earlier try may have left the whole of it
            self.patience.call(self._append, json.dumps(log, separators=(",", ":")).encode() + b"\n", stands_at)

    def _append(self, data: bytes, stands_at: list[int]) -> None:
        with writing(self._path) as handle:
            place = next((at for at in stands_at if os.pread(handle, len(data), at) == data), None)
            if place is None:
                place = os.lseek(handle, 0, os.SEEK_END)
                stands_at[:] = [place]
            written = 0
            while written < len(data):
                written += os.pwrite(handle, data[written:], place + written)
            os.fsync(handle)


_APPEND = """
local prefix, writer, mark = ARGV[1], ARGV[2], ARGV[3]
if redis.call('get', prefix .. ':last:' .. writer) == mark then return 0 end
redis.call('setnx', prefix .. ':log_number', -1)
for i = 4, #ARGV do
  redis.call('set', prefix .. ':log:' .. redis.call('incr', prefix .. ':log_number'), ARGV[i])
end
redis.call('set', prefix .. ':last:' .. writer, mark, 'EX', 604800)
return 1
"""


class RedisJournal(BaseJournalBackend):
    """A journal in Redis, in the layout of Optuna's own `JournalRedisBackend`, whose tools can read it.

    It differs from that on purpose: records are read many at a time; an append that went through although its answer was
    lost is not repeated; no pickled snapshots are read; and a server that came back without its records is told.
    """

    BATCH = 1000

    def __init__(self, client: redis.Redis, prefix: str, patience: Patience) -> None:
        self.client, self.patience = client, patience
        self._prefix, self._writer = prefix, uuid.uuid4().hex
        self._last: tuple[int, bytes] | None = None  # the last record that was read

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The records from number `log_number_from` on.

        Raises:
            RuntimeError: the server has lost records that were read before.
        """
        number = log_number_from
        while True:
            records = self.patience.call(self._read, number)
            for record in records:
                self._last = (number, record)
                number += 1
                yield json.loads(record)
            if len(records) < self.BATCH:
                return

    def _read(self, number: int) -> list[bytes]:
        total = int(cast(Any, self.client.get(f"{self._prefix}:log_number")) or -1) + 1
        numbers = list(range(number, min(total, number + self.BATCH)))
        known = self._last if self._last is not None and self._last[0] < number and numbers else None
        asked = [*([known[0]] if known else []), *numbers]
        found = cast(list[bytes | None], self.client.mget([f"{self._prefix}:log:{i}" for i in asked])) if asked else []
        lost = total < number or None in found or (known is not None and found[0] != known[1])
        if lost:
            raise RuntimeError(
                f"{self.patience.what} has lost records of this study: it was restarted without its data, or cleared. Switch "
                "its persistence on (appendonly yes) and restore its file, or start again under another "
                "hydra.sweeper.study_name; the results in the study's folder are whole"
            )
        return cast(list[bytes], found[1 if known else 0 :])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append the records, each once."""
        script = [json.dumps(log) for log in logs]
        self.patience.call(self.client.eval, _APPEND, 0, self._prefix, self._writer, uuid.uuid4().hex, *script)


LEASE_SECONDS = 30.0  # of Redis: how long a dead holder keeps others out


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


class RedisStorage(JournalStorage):
    """Optuna's journal storage in a Redis, which keeps the locks of its studies as well."""

    def __init__(self, journal: RedisJournal) -> None:
        self._journal = journal
        self._locks: dict[str, ServerLock] = {}
        super().__init__(journal)

    def server_lock(self, study_name: str) -> ServerLock:
        """A lock on the server."""
        if study_name not in self._locks:
            client, patience = self._journal.client, self._journal.patience
            self._locks[study_name] = LeaseLock(client, patience, f"xvol:lock:{study_name}")
        return self._locks[study_name]
