"""Opening the Optuna storage of a study: an embedded journal by default, or SQLite, PostgreSQL or Redis by URL."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from pathlib import Path
from typing import cast

from optuna.storages import BaseStorage, JournalStorage

from search.ledger.files import NewerVersion
from search.ledger.secrets import mask
from search.ledger.study_files import JOURNAL
from search.study.storage.journal import FileJournal, RedisJournal, RedisStorage, first_bad_line
from search.study.storage.waiting import CONNECT_SECONDS, Patience, StorageGone

log = logging.getLogger("xvol")
_ALLOWED = (
    "Allowed are null (a journal in the study's folder), journal:PATH, sqlite:///PATH, postgresql://USER@HOST/NAME and "
    "redis://HOST:PORT"
)


def open_storage(spec: str | None, study_dir: Path, patience_seconds: float = 600.0) -> BaseStorage:
    """Open, and where needed create, the storage. Its calls wait while it is away; opening does not.

    Args:
        spec: None for `study.journal` in `study_dir`; `journal:PATH` for a journal elsewhere; else a URL of SQLite,
            PostgreSQL or Redis.
        study_dir: the study's folder. In Redis its name keeps studies apart.
        patience_seconds: how long a call waits for a storage that went away, before it raises StorageGone.

    Raises:
        ValueError: it cannot be opened; the message never holds a password.
    """
    shown = "the journal in the study's folder" if spec is None else f"the storage {mask(spec)}"
    patience = Patience(shown, seconds=0)  # a storage that cannot even be opened is told at once
    try:
        storage = _opened(spec, study_dir, patience)
    except _Missing as error:
        raise ValueError(f"hydra.sweeper.storage: cannot open {shown}: {error}") from None
    except Exception as error:
        cause = error.__cause__ if isinstance(error, StorageGone) and error.__cause__ else error
        refuse_damaged(spec, study_dir)
        first_line = mask(str(cause)).splitlines()[0] if str(cause) else type(cause).__name__
        raise ValueError(
            f"hydra.sweeper.storage: cannot open {shown} ({type(cause).__name__}: {first_line}). {_ALLOWED}"
        ) from None
    patience.seconds = patience_seconds
    return storage


def refuse_damaged(spec: str | None, study_dir: Path) -> None:
    """Raise ValueError, with what can be done, where the journal has a line that is no record."""
    journal = journal_of(spec, study_dir)
    bad = first_bad_line(journal) if journal is not None and journal.is_file() else None
    if bad is not None and bad.newer:
        raise NewerVersion(f"{journal}: line {bad.number} is {bad.why}; update optuna")
    if bad is not None and not bad.torn:
        raise ValueError(
            f"{journal}: line {bad.number} is damaged ({bad.why}), and nothing after it can be read; "
            f"xvol-check {study_dir} --repair cuts it there, and keeps the rest beside it"
        )


def journal_of(spec: str | None, study_dir: Path) -> Path | None:
    """The file of a storage that is a journal; None for any other."""
    if spec is None:
        return study_dir / JOURNAL
    return Path(spec.removeprefix("journal:")) if spec.startswith("journal:") else None


class _Missing(Exception):
    """A package is not installed."""


def _opened(spec: str | None, study_dir: Path, patience: Patience) -> BaseStorage:
    journal = journal_of(spec, study_dir)
    if journal is not None:
        journal = journal.resolve()
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.touch()
        return JournalStorage(FileJournal(journal, patience))
    assert spec is not None
    if spec.startswith(("redis:", "rediss:")):
        return _redis(spec, study_dir.name, patience)
    scheme = spec.partition(":")[0]
    if scheme not in ("sqlite", "postgresql", "postgres") and not scheme.startswith("postgresql+"):
        raise ValueError("no such kind of storage")
    from search.study.storage.database import open_postgresql, open_sqlite  # SQLAlchemy: not for a journal

    if scheme == "sqlite":
        return open_sqlite(spec, study_dir, patience)
    return open_postgresql(spec, _driver(scheme), patience)


def _redis(url: str, study: str, patience: Patience) -> RedisStorage:
    if not _is_installed("redis"):
        raise _Missing("Redis' driver is not installed: pip install 'xvol[redis]'")
    import redis  # an extra, which need not be installed

    client = redis.Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=30,
        socket_keepalive=True,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),  # ours knows which calls may be repeated
    )
    storage = RedisStorage(RedisJournal(client, f"xvol:{study}", patience))
    with contextlib.suppress(redis.ResponseError):  # a managed server may refuse to tell
        if cast(dict[str, str], client.config_get("appendonly")).get("appendonly") == "no":
            log.warning("%s keeps no log (appendonly no): trials may be lost when it restarts", patience.what)
    return storage


def _driver(name: str) -> str:
    """The driver to use for a URL that begins with `name`: the one it names, or the one that is installed."""
    drivers = ("psycopg", "psycopg2")
    asked = name.partition("+")[2]
    if asked and asked not in drivers:
        raise ValueError(f"driver {asked!r} is not supported; write postgresql://, or postgresql+ and one of {drivers}")
    for driver in [asked] if asked else drivers:
        if _is_installed(driver):
            return driver
    raise _Missing(f"PostgreSQL's driver {asked or 'psycopg'} is not installed: pip install 'xvol[postgres]'")


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
