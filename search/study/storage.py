"""Opening the Optuna storage of a study: an embedded journal by default, or any URL that Optuna takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.storages.journal import JournalFileOpenLock

from search.ledger.paths import JOURNAL
from search.ledger.secrets import mask
from search.study.locks import FileLock

if TYPE_CHECKING:
    import optuna

__all__ = ["JournalLock", "open_storage"]


class JournalLock(JournalFileOpenLock):
    """Guards the journal's appends, and cuts off a line that a dying process left half written.

    Optuna's own lock files outlive a killed holder by half a minute, and a torn line makes the next append
    unreadable. Whoever holds this lock is the only writer, so what does not end in a newline is nobody's.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._lock = FileLock(journal.with_name(journal.name + ".lock"))

    def acquire(self) -> bool:
        """Wait for the lock, then mend the journal's end."""
        self._lock.acquire()
        try:
            _cut_torn_line(self._journal)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()


def _cut_torn_line(journal: Path) -> None:
    with journal.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        if end == 0:
            return
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return
        keep, step = end, 4096
        while keep > 0:
            start = max(0, keep - step)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        file.truncate(keep)


def open_storage(spec: str | None, study_dir: Path) -> optuna.storages.BaseStorage:
    """Open, and where needed create, the storage.

    Args:
        spec: None for `study.journal` in `study_dir`; `journal:PATH` for a journal elsewhere; else a database URL.

    Raises:
        ValueError: it cannot be opened; the message never holds a password.
    """
    import optuna

    try:
        if spec is None or spec.startswith("journal:"):
            path = (study_dir / JOURNAL if spec is None else Path(spec.removeprefix("journal:"))).resolve()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            backend = optuna.storages.journal.JournalFileBackend(str(path), lock_obj=JournalLock(path))
            return optuna.storages.JournalStorage(backend)
        return _database(spec)
    except Exception as error:
        shown = "the journal in the study's folder" if spec is None else mask(spec)
        first_line = mask(str(error)).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"hydra.sweeper.storage: cannot open {shown} ({type(error).__name__}: {first_line}). Allowed are null (a journal "
            "in the study's folder), journal:PATH, and database URLs such as sqlite:///PATH or postgresql://USER@HOST/NAME"
        ) from None


def _database(url: str) -> optuna.storages.BaseStorage:
    import optuna

    sqlite = url.startswith("sqlite:")
    arguments = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    return optuna.storages.RDBStorage(url, engine_kwargs=arguments)
