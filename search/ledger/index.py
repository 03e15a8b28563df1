"""Which runs there are by their fingerprint, over all studies below one folder: one file that is only appended to.

`runs/.index` holds a line for each run, written before the run is trained. A line is a checksum and a JSON list. What
became of a run stands in its `result.json`, which is read when it is asked for, so the file can be lost or damaged
without harm: what it does not tell is found in the folders and appended, once in the life of each `Index`. Between two
questions only new lines are read; folders are not listed again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import time
import uuid
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from search.ledger.result import RESULT_FILE, TrialResult, sound_result
from search.ledger.study_files import NO_TRIALS_INSIDE

log = logging.getLogger("xvol")
INDEX_FILE = ".index"
DEPTH = 3  # runs_root/<study>/<trials|final>/<trial>
HEAD_BYTES = 64
SETTLE_SECONDS = 2.0  # a folder changed later than this before it was listed may change again under the same time stamp
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass(frozen=True, slots=True)
class Run:
    """A run that was begun: its folder, relative to that of the studies; who began it, as `search.study.liveness` names workers, None
    for a run that was found in its folder; and whether its figures were taken from another run.
    """

    place: str
    host: str | None = None
    lock: str | None = None
    copied: bool = False


class Index:
    """Finds earlier runs that were, or are being, trained under a fingerprint.

    `runs_root` is the folder that holds the studies' folders, `runs/`; it need not exist yet. `writes`: whether what is found in
    folders is appended to the file; a reader leaves no trace.
    """

    def __init__(self, runs_root: str | os.PathLike[str], writes: bool = True) -> None:
        self._root = os.path.abspath(runs_root)
        self._file = os.path.join(self._root, INDEX_FILE)
        self._writes = writes
        self._held = False
        self._forget()

    def _forget(self) -> None:
        self._runs: dict[str, dict[str, Run]] = {}  # fingerprint: {place: run}
        self._asked: dict[str, list[str]] = {}  # first half of a fingerprint: fingerprints, as they were begun
        self._known: set[str] = set()  # places that need not be looked into
        self._latest: dict[str, str] = {}  # lock of a worker: place of the run that it began last
        self._studies: set[str] = set()  # folders that were looked through
        self._listed = -1  # time stamp of the root when it was listed
        self._inode, self._head, self._offset = -1, b"", 0

    def runs(self, fingerprint: str) -> list[Run]:
        """The runs of that fingerprint, in the order in which they were begun."""
        self._refresh()
        return list(self._runs.get(fingerprint, {}).values())

    def find(
        self, fingerprint: str, needs_test: bool, below: str | None = None, unfit: Collection[str] = ()
    ) -> Path | None:
        """The absolute path of the `result.json` of a finished run with that fingerprint, or None.

        A run that was trained comes before those that took its figures over.

        Args:
            needs_test: take no result without test scores.
            below: name of the only study to look into.
            unfit: paths that are passed over.
        """
        runs = [run for run in self.runs(fingerprint) if below is None or run.place.startswith(f"{below}/")]
        for run in sorted(runs, key=lambda run: run.copied):
            path = self.result_file(run)
            if str(path) in unfit:
                continue
            result = self.result(run)
            if result is None or (result.status, result.fingerprint) != ("ok", fingerprint):
                continue
            if result.has_test_scores or not needs_test:
                return path
        return None

    def find_outdated(self, fingerprint: str, needs_test: bool, below: str | None = None) -> Path | None:
        """As `find`, of the latest run of the same settings that other code, images or versions made."""
        self._refresh()
        others = [other for other in self._asked.get(_asked(fingerprint), ()) if other != fingerprint]
        found = (self.find(other, needs_test, below) for other in reversed(others))
        return next((path for path in found if path is not None), None)

    def result_file(self, run: Run) -> Path:
        """Where the run's result stands once it has ended."""
        return Path(self._root, run.place, RESULT_FILE)

    def result(self, run: Run) -> TrialResult | None:
        """The run's result; None while it has none, or one that cannot be read."""
        return sound_result(self.result_file(run))

    def is_latest(self, run: Run) -> bool:
        """Whether its worker, which runs one after the other, has begun none since, and has not said that it ended."""
        return run.lock is not None and self._latest.get(run.lock) == run.place

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all others below this folder from beginning a run: what is found inside is true until the end."""
        self._refresh()
        with self._exclusive():
            self._held = True
            try:
                yield
            finally:
                self._held = False

    def begin(self, fingerprint: str, place: str, host: str, lock: str) -> None:
        """Write down that a run is trained now; call it inside `locked`."""
        self._append([(fingerprint, Run(place, host, lock))])

    def copy(self, fingerprint: str, place: str) -> None:
        """Write down where a copy of a run will stand, for the day when the run itself is lost; inside `locked`."""
        self._append([(fingerprint, Run(place, copied=True))])

    def end(self, host: str, lock: str) -> None:
        """Write down that a worker trains nothing now, whatever became of its run; call it inside `locked`."""
        self._append([("", Run("", host, lock))])

    def _refresh(self) -> None:
        """Take in what others have written, and the folders of studies that are new here."""
        self._read()
        if self._held:  # folders were looked into before
            return
        try:
            changed = os.stat(self._root).st_mtime_ns
        except OSError:
            return
        if changed == self._listed:
            return
        self._listed = changed if time.time_ns() - changed > SETTLE_SECONDS * 1e9 else -1
        new = sorted(set(_folders(self._root)) - self._studies)
        if not new:
            return
        with self._exclusive() if self._writes else contextlib.nullcontext():
            found = [entry for name in new for entry in self._unknown(name, 1)]
            self._studies.update(new)
            if found and self._writes:
                self._append(found)
            for fingerprint, run in found:
                self._take(fingerprint, run)

    def _unknown(self, place: str, depth: int) -> Iterator[tuple[str, Run]]:
        """The ended runs in and below `place` that no line tells of."""
        result = sound_result(Path(self._root, place, RESULT_FILE))
        if result is not None:
            yield from _entry(place, result)
        elif depth < DEPTH:
            for name in _folders(os.path.join(self._root, place)):
                inside = f"{place}/{name}"
                if name not in NO_TRIALS_INSIDE and inside not in self._known:
                    yield from self._unknown(inside, depth + 1)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        os.makedirs(self._root, exist_ok=True)
        while True:
            handle = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _lock(handle)
                if not _is_file(handle, self._file):  # somebody deleted it while we waited
                    continue
                self._read()
                yield
                return
            finally:
                os.close(handle)

    def _append(self, entries: Collection[tuple[str, Run]]) -> None:
        lines = b"".join(_line(fingerprint, run) for fingerprint, run in entries)
        handle = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(handle).st_size
            if not size:  # told apart by its first line: the inode of a file that was deleted is soon used again
                lines = _line("", Run(uuid.uuid4().hex)) + lines
            elif os.pread(handle, 1, size - 1) != b"\n":  # whoever wrote last died in the middle
                lines = b"\n" + lines
            if os.write(handle, lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file)
        finally:
            os.close(handle)
        self._read()

    def _read(self) -> None:
        """Take in the whole lines that are new; a damaged one is passed over, and its folder is found again."""
        try:
            handle = os.open(self._file, os.O_RDONLY)
        except OSError:
            if self._inode != -1:  # it was deleted: begin anew
                self._forget()
            return
        try:
            about = os.fstat(handle)
            head = os.pread(handle, HEAD_BYTES, 0)
            if about.st_ino != self._inode or about.st_size < self._offset or not head.startswith(self._head):
                self._forget()
                self._inode = about.st_ino
            self._head = head
            data = os.pread(handle, about.st_size - self._offset, self._offset)
        finally:
            os.close(handle)
        end = data.rfind(b"\n") + 1
        self._offset += end
        for line in data[:end].splitlines():
            entry = _entry_of(line)
            if entry is not None:
                self._take(*entry)

    def _take(self, fingerprint: str, run: Run) -> None:
        self._known.add(run.place)
        if run.lock is not None:
            self._latest[run.lock] = run.place
        if fingerprint:
            if fingerprint not in self._runs:
                self._asked.setdefault(_asked(fingerprint), []).append(fingerprint)
            self._runs.setdefault(fingerprint, {})[run.place] = run


def _asked(fingerprint: str) -> str:
    return fingerprint.partition("-")[0]


def _line(fingerprint: str, run: Run) -> bytes:
    text = json.dumps([fingerprint, run.place, run.host, run.lock, run.copied], separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _entry_of(line: bytes) -> tuple[str, Run] | None:
    """What a line says; None where it is damaged."""
    check, _, text = line.partition(b" ")
    if check != b"%08x" % zlib.crc32(text):
        return None
    fingerprint, *facts = json.loads(text)
    return fingerprint, Run(*facts)


def _entry(place: str, result: TrialResult) -> Iterator[tuple[str, Run]]:
    """A run that has ended, by its result; without a fingerprint where nobody needs to find it."""
    if result.status in ("interrupted", "duplicate"):
        return  # it may go on, in this folder or in another
    was_trained = result.status == "ok" or (result.status in ("pruned", "failed") and result.epochs > 0)
    fingerprint = result.fingerprint if was_trained and isinstance(result.fingerprint, str) else ""
    yield fingerprint, Run(place, copied=result.reused_from is not None)


def _folders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []


def _lock(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.debug("the disk of the runs has no file locks: two studies may train one network at once")


def _is_file(handle: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False
