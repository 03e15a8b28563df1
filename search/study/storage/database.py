"""A database as Optuna's storage, whose calls wait while the database is away, and do no harm when they are repeated."""

# ruff: noqa: D102  (the methods are those of Optuna's BaseStorage, which documents them)

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import threading
import uuid
import warnings
import weakref
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.study.storage.waiting import CONNECT_SECONDS, Away, FileLock, Patience, ServerLock, is_away

MADE = "xvol:made"  # system attribute by which a trial is known again whose creation was not answered
HEARTBEAT_SECONDS, GRACE_SECONDS = 15, 60
# libpq finds out within half a minute that a server's machine is gone. A database made without a locale says SQL_ASCII,
# and the driver would hand out bytes in place of texts.
_CONNECTION = {
    "client_encoding": "utf8",
    "connect_timeout": CONNECT_SECONDS,
    "keepalives": 1,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_OPENING_KEY = 0x786F_766F_6C  # of the advisory lock under which tables are made


def open_sqlite(url: str, study_dir: Path, patience: Patience) -> PatientDatabase:
    """Open, or create, an SQLite file."""
    is_new, lock = not study_dir.exists(), study_dir / ".opening.lock"
    study_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock):  # two who make the tables at once stumble over each other
            inner = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
    except Exception:  # nobody can open it: nothing is left behind
        lock.unlink(missing_ok=True)
        if is_new:
            study_dir.rmdir()
        raise
    return PatientDatabase(inner, patience)


def open_postgresql(url: str, driver: str, patience: Patience) -> PatientDatabase:
    """Open a database of PostgreSQL through `driver`, and make the tables that it lacks."""
    address = sqlalchemy.make_url(url)
    address = address.set(drivername=f"postgresql+{driver}")
    arguments = {name: value for name, value in _CONNECTION.items() if name not in address.query}
    # Optuna fills in {...}
    full = address.render_as_string(hide_password=False).replace("{", "%7B").replace("}", "%7D")
    engine = sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool, connect_args=arguments)
    with engine.connect() as connection, warnings.catch_warnings():
        # held until the connection closes: two who make the tables at once stumble over each other
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": _OPENING_KEY})
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        inner = optuna.storages.RDBStorage(
            full,
            engine_kwargs={"pool_pre_ping": True, "connect_args": arguments},
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=GRACE_SECONDS,
        )
    return PatientDatabase(inner, patience)


def _patient(name: str) -> Any:
    """A method of Optuna's storage that may be called again, since a second call does no harm."""

    def method(self: PatientDatabase, *arguments: Any, **named: Any) -> Any:
        return self._patience.call(functools.partial(getattr(self._inner, name), *arguments, **named))

    return method


class PatientDatabase(BaseStorage):
    """Optuna's database storage behind a `Patience`.

    A call can go through although its answer is lost with the connection. What is then repeated:

    - reading, and setting an attribute, a parameter or an intermediate value: the same again, no harm.
    - `create_new_trial`: each trial carries a mark of its own, and is looked for before it is made again.
    - `set_trial_state_values` to an end: a trial that already is in that state with those values is taken for done.
    - `set_trial_state_values` to RUNNING: answers False, "another has it", as nobody can know. The trial stands there
      claimed by nobody, and is taken back by whoever recovers the study.
    - `create_new_study`: DuplicatedStudyError, which `load_if_exists=True` takes for an answer.
    - `delete_study`: a study that is no longer there is taken for deleted.

    Args:
        inner: the database; its engine's errors are watched.
        patience: how long to wait.
    """

    def __init__(self, inner: RDBStorage, patience: Patience) -> None:
        self._rdb, self._patience = inner, patience
        self._inner: Any = get_storage(inner)  # which keeps finished trials in memory
        self._locks: dict[str, AdvisoryLock] = {}
        sqlalchemy.event.listen(inner.engine, "handle_error", _tell_broken_connections)
        weakref.finalize(self, _close, inner.engine, self._locks)

    create_new_study = _patient("create_new_study")
    set_study_user_attr = _patient("set_study_user_attr")
    set_study_system_attr = _patient("set_study_system_attr")
    get_study_id_from_name = _patient("get_study_id_from_name")
    get_study_name_from_id = _patient("get_study_name_from_id")
    get_study_directions = _patient("get_study_directions")
    get_study_user_attrs = _patient("get_study_user_attrs")
    get_study_system_attrs = _patient("get_study_system_attrs")
    get_all_studies = _patient("get_all_studies")
    set_trial_param = _patient("set_trial_param")
    set_trial_intermediate_value = _patient("set_trial_intermediate_value")
    set_trial_user_attr = _patient("set_trial_user_attr")
    set_trial_system_attr = _patient("set_trial_system_attr")
    get_trial = _patient("get_trial")
    get_trial_id_from_study_id_trial_number = _patient("get_trial_id_from_study_id_trial_number")
    get_all_trials = _patient("get_all_trials")
    get_best_trial = _patient("get_best_trial")

    def server_lock(self, study_name: str) -> ServerLock | None:
        """A lock on the server; None for SQLite, which has none."""
        if self._rdb.engine.dialect.name != "postgresql":
            return None
        if study_name not in self._locks:
            self._locks[study_name] = AdvisoryLock(self._rdb.engine, self._patience, f"xvol:{study_name}")
        return self._locks[study_name]

    def delete_study(self, study_id: int) -> None:
        def again() -> None:
            try:
                self._inner.delete_study(study_id)
            except KeyError:
                return

        self._patience.call(self._inner.delete_study, study_id, retry=again)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        mark = uuid.uuid4().hex
        template = copy.copy(template_trial or create_trial(state=TrialState.RUNNING))
        template.system_attrs = {**template.system_attrs, MADE: mark}

        def again() -> int:
            for trial in reversed(self._inner.get_all_trials(study_id, deepcopy=False)):
                if trial.system_attrs.get(MADE) == mark:
                    return trial._trial_id
            return self._inner.create_new_trial(study_id, template)

        return self._patience.call(self._inner.create_new_trial, study_id, template, retry=again)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        def again() -> bool:
            try:
                return self._inner.set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                trial = self._inner.get_trial(trial_id)
                if trial.state == state and (trial.values or []) == list(values or []):
                    return True
                raise

        return self._patience.call(self._inner.set_trial_state_values, trial_id, state, values, retry=again)

    def remove_session(self) -> None:
        self._rdb.remove_session()

    def record_heartbeat(self, trial_id: int) -> None:
        """Record that the trial's worker lives; a beat that cannot be recorded now is left out."""
        try:
            self._inner.record_heartbeat(trial_id)
        except Exception as error:
            if not is_away(error):
                raise

    def heartbeat_age(self, trial_id: int) -> timedelta | None:
        """How long ago the trial's last heartbeat was, by the database's clock; None where there never was one."""
        beats = sqlalchemy.table("trial_heartbeats", sqlalchemy.column("trial_id"), sqlalchemy.column("heartbeat"))
        query = sqlalchemy.select(sqlalchemy.func.now(), beats.c.heartbeat).where(beats.c.trial_id == trial_id)

        def ask() -> timedelta | None:
            with self._rdb.engine.connect() as connection:
                row = connection.execute(query).first()
            return None if row is None else _moment(row[0]) - _moment(row[1])

        return self._patience.call(ask)

    def get_heartbeat_interval(self) -> int | None:
        return self._rdb.get_heartbeat_interval()


def _close(engine: sqlalchemy.Engine, locks: dict[str, AdvisoryLock]) -> None:
    for lock in locks.values():
        lock.close()
    engine.dispose()


def _tell_broken_connections(context: Any) -> None:
    """Turn a broken connection into `Away`, past Optuna's own retries, which would make a trial twice."""
    if context.is_disconnect and not context.is_pre_ping:
        raise Away(str(context.original_exception)) from context.original_exception


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.replace(tzinfo=None)


class AdvisoryLock:
    """A session's advisory lock in PostgreSQL, on a connection of its own that is kept between two uses.

    The server gives the lock back when the connection ends: at once where the holder's process dies, after about half
    a minute where its machine does (keep-alive probes).
    """

    def __init__(self, engine: sqlalchemy.Engine, patience: Patience, name: str) -> None:
        self.patience = patience
        self._engine = engine
        self._key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)
        self._connection: sqlalchemy.Connection | None = None
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
        lock = sqlalchemy.text("SELECT pg_advisory_lock(:key)").bindparams(key=self._key)
        try:
            if self._connection is not None:
                with contextlib.suppress(Exception):
                    self._connection.execute(lock)
                    return
                self._drop()  # it ended while nobody used it
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            for name, value in (("idle", 15), ("interval", 5), ("count", 3)):
                self._connection.execute(sqlalchemy.text(f"SET tcp_keepalives_{name} = {value}"))
            self._connection.execute(lock)
        except BaseException:
            self._drop()
            raise

    def ensure(self) -> None:
        """Take the lock again where it was lost with the server."""
        with self._mutex:
            if self._connection is not None:
                with contextlib.suppress(Exception):
                    self._connection.execute(sqlalchemy.text("SELECT 1"))
                    return
                self._drop()
            self._take()

    def release(self) -> None:
        """Give the lock back; never raises."""
        with self._mutex:
            if self._connection is not None:
                try:
                    self._connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:key)"), {"key": self._key})
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
