"""Calls wait while their storage is away, and a call that went through although its answer was lost does no harm."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy.exc
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search.ledger.study_files import JOURNAL
from search.study.storage.database import PatientDatabase
from search.study.storage.opening import open_storage
from search.study.storage.waiting import Away, FileLock, Patience, StorageGone, is_away, is_held, study_lock


class Faulty:
    """Fails a given number of times, before or after the real thing."""

    def __init__(self, function: Callable[..., Any], error: Exception, times: int = 1, after: bool = False) -> None:
        self.function, self.error, self.times, self.after, self.calls = function, error, times, after, 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        if self.times > 0:
            self.times -= 1
            if self.after:
                self.function(*arguments, **named)
            raise self.error
        return self.function(*arguments, **named)


def sqlite_error(code: int) -> sqlalchemy.exc.OperationalError:
    original = sqlite3.OperationalError("as SQLite says it")
    original.sqlite_errorcode = code
    return sqlalchemy.exc.OperationalError("select", {}, original)


class PostgresError(Exception):
    def __init__(self, text: str, sqlstate: str | None) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


def postgres_error(text: str, state: str | None = None) -> sqlalchemy.exc.OperationalError:
    return sqlalchemy.exc.OperationalError("select", {}, PostgresError(text, state))


def wrapped(error: Exception) -> Exception:
    outer = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        Away("server closed the connection unexpectedly"),
        sqlite_error(5),
        sqlite_error(13),
        sqlite_error(10 | 3 << 8),
        wrapped(sqlite_error(13)),
        postgres_error("connection refused"),
        postgres_error("the database system is starting up", "57P03"),
        postgres_error("too many clients already", "53300"),
        wrapped(postgres_error("deadlock detected", "40P01")),
    ],
    ids=repr,
)
def test_these_errors_mean_away(error: Exception) -> None:
    assert is_away(error)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("Record does not exist."),
        ValueError("x"),
        FileNotFoundError(errno.ENOENT, "gone"),
        PermissionError(errno.EACCES, "no"),
        optuna.exceptions.UpdateFinishedTrialError("finished"),
        optuna.exceptions.DuplicatedStudyError("twice"),
        sqlite_error(1),
        wrapped(sqlite_error(1)),
        sqlalchemy.exc.IntegrityError("insert", {}, PostgresError("duplicate key", "23505")),
        postgres_error('FATAL:  password authentication failed for user "me"'),
        postgres_error("FATAL: no such role", "28000"),
        postgres_error('FATAL:  database "x" does not exist'),
        StorageGone("gone"),
    ],
    ids=repr,
)
def test_these_errors_pass_at_once(error: Exception) -> None:
    assert not is_away(error)
    calls = Faulty(lambda: None, error)
    with pytest.raises(type(error)):
        Patience("it", 60).call(calls)
    assert calls.calls == 1


def test_redis_errors() -> None:
    redis = pytest.importorskip("redis")
    for away in (
        redis.ConnectionError("x"),
        redis.TimeoutError("x"),
        redis.BusyLoadingError("loading"),
        redis.ReadOnlyError("x"),
    ):
        assert is_away(away)
    assert is_away(redis.ResponseError("MISCONF Redis is configured to save RDB snapshots, but cannot"))
    for fault in (redis.AuthenticationError("x"), redis.ResponseError("WRONGTYPE"), redis.DataError("x")):
        assert not is_away(fault)


def test_it_waits_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "xvol"):
        patience = Patience("the disk", 30)
        assert patience.call(Faulty(lambda: 7, OSError(errno.ENOSPC, "No space left on device"), times=3)) == 7
        assert patience.call(lambda: 8) == 8
    away, back = caplog.messages
    assert away == "the disk does not answer (OSError: [Errno 28] No space left on device); waiting for it, up to 30 s"
    assert back.startswith("the disk is back after ")


def test_it_gives_up_in_words_and_does_not_wait_twice() -> None:
    patience = Patience("the disk", 1.0)
    start = time.monotonic()
    for longest in (60.0, 0.9):
        with pytest.raises(
            StorageGone, match=r"the disk has not answered for \d s \(OSError: .*give the same command again"
        ):
            patience.call(Faulty(lambda: 7, OSError(errno.EIO, "Input/output error"), times=10**6))
        assert time.monotonic() - start < longest
        start = time.monotonic()
    assert patience.call(lambda: 7) == 7


def test_no_password_is_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    error = postgres_error("cannot reach postgresql://me:secret77@host/x")
    with caplog.at_level(logging.WARNING, "xvol"), pytest.raises(StorageGone) as caught:
        Patience("it", 0.1).call(Faulty(lambda: 7, error, times=100))
    assert "secret77" not in caplog.text + str(caught.value)


def test_locks_are_taken_again_before_the_call_is_repeated() -> None:
    patience, order = Patience("it", 30), []
    patience.before_retry.append(lambda: order.append("lock"))
    faulty = Faulty(lambda: order.append("call"), OSError(errno.EIO, "x"), times=2)
    patience.call(faulty)
    assert order == ["lock", "lock", "call"]


@pytest.fixture
def database(tmp_path: Path) -> PatientDatabase:
    storage = open_storage(f"sqlite:///{tmp_path / 'x.db'}", tmp_path, patience_seconds=30)
    assert isinstance(storage, PatientDatabase)
    return storage


def lose_answer(database: PatientDatabase, monkeypatch: pytest.MonkeyPatch, method: str) -> Faulty:
    """Let the next call of `method` go through, and its answer be lost."""
    faulty = Faulty(getattr(database._inner, method), Away("connection lost"), after=True)
    monkeypatch.setattr(database._inner, method, faulty)
    return faulty


@pytest.mark.parametrize("waiting", [True, False])
def test_a_trial_whose_creation_was_not_answered_is_made_once(
    database: PatientDatabase, monkeypatch: pytest.MonkeyPatch, waiting: bool
) -> None:
    study = optuna.create_study(study_name="s", storage=database)
    study.enqueue_trial({"x": 1})
    lost = lose_answer(database, monkeypatch, "create_new_trial")
    if waiting:
        study.enqueue_trial({"x": 2}, user_attrs={"cell": 5})
    else:
        study.ask(), study.ask()
    assert lost.calls == 1
    assert len(study.trials) == 2
    states = {True: [TrialState.WAITING] * 2, False: [TrialState.RUNNING] * 2}
    assert [trial.state for trial in study.trials] == states[waiting]


def test_an_end_that_was_not_answered_stands(database: PatientDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(study_name="s", storage=database)
    for number, (value, state) in enumerate([(0.5, TrialState.COMPLETE), (None, TrialState.FAIL)]):
        trial = study.ask()
        lost = lose_answer(database, monkeypatch, "set_trial_state_values")
        study.tell(trial, value, state=state)
        assert lost.calls == 2
        assert study.trials[number].value == value
        assert study.trials[number].state == state


def test_an_end_that_another_has_set_is_refused(database: PatientDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(study_name="s", storage=database)
    trial = study.ask()
    real = database._inner.set_trial_state_values

    def fail_first(trial_id: int, state: TrialState, values: Any = None) -> bool:
        real(trial_id, TrialState.FAIL)
        monkeypatch.setattr(database._inner, "set_trial_state_values", real)
        raise Away("connection lost")

    monkeypatch.setattr(database._inner, "set_trial_state_values", fail_first)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        study.tell(trial, 1.0)
    assert study.trials[0].state == TrialState.FAIL


def test_a_claim_that_was_not_answered_goes_to_nobody(
    database: PatientDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(study_name="s", storage=database)
    for x in (1, 2):
        study.enqueue_trial({"x": x})
    lose_answer(database, monkeypatch, "set_trial_state_values")
    assert study.ask().number == 1
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING] * 2  # 0 has no worker: it is recovered


def test_what_is_set_twice_stands_once(database: PatientDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(study_name="s", storage=database)
    trial = study.ask()
    for method in ("set_trial_param", "set_trial_intermediate_value", "set_trial_user_attr", "set_study_user_attr"):
        lose_answer(database, monkeypatch, method)
    x = trial.suggest_float("x", 0, 1)
    trial.report(0.5, 1)
    trial.set_user_attr("a", 1)
    study.set_user_attr("b", 2)
    frozen = study.trials[0]
    assert (frozen.params, frozen.intermediate_values, frozen.user_attrs) == ({"x": x}, {1: 0.5}, {"a": 1})
    assert study.user_attrs == {"b": 2}


def test_studies_whose_answers_were_lost(database: PatientDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_answer(database, monkeypatch, "create_new_study")
    study = optuna.create_study(study_name="s", storage=database, load_if_exists=True)
    assert study.study_name == "s"
    lose_answer(database, monkeypatch, "delete_study")
    optuna.delete_study(study_name="s", storage=database)
    with pytest.raises(KeyError):
        optuna.delete_study(study_name="s", storage=database)


FULL = """
import resource, sys, threading
from pathlib import Path
import optuna
from search.study.storage.opening import open_storage

optuna.logging.set_verbosity(optuna.logging.ERROR)
folder, room = Path(sys.argv[1]), int(sys.argv[2])
storage = open_storage(None, folder, patience_seconds=30)
study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
for _ in range(3):
    study.tell(study.ask(), 1.0)
size = (folder / "study.journal").stat().st_size
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
threading.Timer(1.0, resource.setrlimit, (resource.RLIMIT_FSIZE, (soft, hard))).start()
for _ in range(3):
    study.tell(study.ask(), 2.0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 30, 400])
def test_a_disk_that_is_full_for_a_while_costs_no_record(tmp_path: Path, room: int) -> None:
    """The limit on a file's size cuts a write in the middle, as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(room)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("does not answer") == done.stderr.count("is back after") >= 1
    study = optuna.load_study(study_name="s", storage=open_storage(None, tmp_path))
    assert [trial.value for trial in study.trials] == [1, 1, 1, 2, 2, 2]
    assert all(json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines())


def test_a_record_that_was_written_but_not_confirmed_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(None, tmp_path, patience_seconds=30))
    sync = Faulty(os.fsync, OSError(errno.EIO, "Input/output error"), after=True)
    monkeypatch.setattr(os, "fsync", sync)
    study.enqueue_trial({"x": 1})
    assert sync.calls == 2
    assert len(study.trials) == 1
    assert len(optuna.load_study(study_name="s", storage=open_storage(None, tmp_path)).trials) == 1


def test_a_read_that_breaks_off_goes_on_where_it_stood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = optuna.create_study(study_name="s", storage=open_storage(None, tmp_path))
    reader = optuna.load_study(study_name="s", storage=open_storage(None, tmp_path, patience_seconds=30))
    for value in range(5):
        writer.tell(writer.ask(), float(value))
    real, broken = JournalFileBackend.read_logs, []

    def read(backend: Any, start: int) -> Any:
        for number, record in enumerate(real(backend, start)):
            if number == 4 and not broken:
                broken.append(start)
                raise OSError(errno.ESTALE, "Stale file handle")
            yield record

    monkeypatch.setattr(JournalFileBackend, "read_logs", read)
    assert [trial.value for trial in reader.trials] == [0, 1, 2, 3, 4]
    assert broken


def test_threads_wait_together(caplog: pytest.LogCaptureFixture) -> None:
    patience, back = Patience("it", 30), threading.Event()

    def call() -> None:
        if not back.is_set():
            raise OSError(errno.EIO, "Input/output error")

    with caplog.at_level(logging.WARNING, "xvol"):
        threads = [threading.Thread(target=patience.call, args=(call,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        back.set()
        for thread in threads:
            thread.join()
    assert sum("does not answer" in message for message in caplog.messages) == 1
    assert sum("is back after" in message for message in caplog.messages) == 1


HOLD = """
import sys, time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from search.study.storage.waiting import FileLock

with FileLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_gives_its_lock_back_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    assert not is_held(path)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert is_held(path)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    start = time.monotonic()
    with FileLock(path):
        assert time.monotonic() - start < 5
    assert not is_held(path)


def check_that_threads_take_turns(lock: Callable[[], AbstractContextManager[object]], turns: int) -> None:
    inside, seen = [0], []

    def work() -> None:
        for _ in range(turns):
            with lock():
                inside[0] += 1
                seen.append(inside[0])
                time.sleep(0.0005)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 4 * turns


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "x.lock")
    check_that_threads_take_turns(lambda: lock, turns=50)


def test_two_study_locks_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path)
    check_that_threads_take_turns(lambda: study_lock(storage, tmp_path, "s"), turns=20)


def test_those_who_ask_do_not_see_each_other(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.touch()
    with path.open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not is_held(path)


def test_a_disk_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(None, tmp_path)

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("search.study.storage.waiting.fcntl.flock", no_locks)
    with pytest.raises(ValueError, match=r"has no file locks .*postgresql://"), study_lock(storage, tmp_path, "s"):
        pass
    monkeypatch.undo()
    with study_lock(storage, tmp_path, "s"):  # what failed holds nothing
        pass


class Server:
    """A storage, and its lock on a server, which forgets it when the server goes away."""

    def __init__(self) -> None:
        self.patience, self.log = Patience("the server", 30), list[str]()

    def server_lock(self, study_name: str) -> Server:
        return self

    def acquire(self) -> None:
        self.log.append("acquire")

    def ensure(self) -> None:
        self.log.append("ensure")

    def release(self) -> None:
        self.log.append("release")


def test_a_servers_lock_is_taken_again_after_an_outage_inside(tmp_path: Path) -> None:
    server, failures = Server(), [OSError(errno.EIO, "x")]

    def call() -> None:
        if failures:
            raise failures.pop()
        server.log.append("call")

    with study_lock(server, tmp_path, "s"):
        server.patience.call(call)
    assert server.log == ["acquire", "ensure", "call", "release"]
    assert server.patience.before_retry == []


def test_a_disk_without_locks_will_do_where_a_server_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("search.study.storage.waiting.fcntl.flock", no_locks)
    for _ in range(2):
        with study_lock(server, tmp_path, "s"):
            pass
    assert server.log == ["acquire", "release"] * 2
