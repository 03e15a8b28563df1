"""A worker's heartbeat is seen, its end is seen, and an outage of its disk costs nothing; a study has one folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.ledger.files import NewerVersion
from search.ledger.study_files import WORKERS
from search.study import liveness
from search.study.liveness import TOKEN_FILE, Heartbeat, check_shared_folder, clear_dead, host_id, is_alive
from search.study.storage.opening import open_storage
from search.study.storage.waiting import FileLock, is_held


def make(folder: Path, name: str = "s", spec: str | None = None) -> optuna.Study:
    return optuna.create_study(study_name=name, storage=open_storage(spec, folder), load_if_exists=True)


def test_the_host_has_a_name_that_fits_a_file_and_stays() -> None:
    assert host_id() == host_id()
    assert "/" not in host_id()
    assert len(host_id()) < 80


def test_two_machines_of_one_name_are_two_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for boot in ("a", "b"):
        monkeypatch.setattr(liveness, "_boot_id", lambda boot=boot: boot)
        names.append(host_id.__wrapped__())
    assert names[0] != names[1]
    assert names[0].rpartition("-")[0] == names[1].rpartition("-")[0]


def test_the_pulse_locks_beats_and_leaves_no_file(tmp_path: Path) -> None:
    study, path = make(tmp_path), tmp_path / WORKERS / "w.lock"
    with Heartbeat(study._storage, tmp_path, "w.lock", interval=0.05) as heartbeat:
        heartbeat.trial(0)
        assert is_held(path)
        os.utime(path, (1, 1))
        end = time.monotonic() + 60
        while path.stat().st_mtime < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert abs(path.stat().st_mtime - time.time()) < 5
    assert not path.exists()
    assert not is_held(path)


def test_what_a_killed_worker_leaves_is_cleared_and_nothing_of_a_living_one(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\nfrom pathlib import Path\nfrom search.study.liveness import Heartbeat, host_id\n"
        f"with Heartbeat(None, Path({str(tmp_path)!r}), f'{{host_id()}}-{{os.getpid()}}-abcdef.lock'):\n"
        "    print(flush=True)\n    time.sleep(60)\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for worker in workers:
            assert worker.stdout is not None
            worker.stdout.readline()
        workers[0].kill()
        folder, (dead, living) = tmp_path / WORKERS, (f"{host_id()}-{worker.pid}-abcdef.lock" for worker in workers)
        for name in (f"{host_id()}-{os.getpid()}-abcdef.lock", "elsewhere-12345678-1-abcdef.lock", ".claims.lock"):
            (folder / name).touch()
        kept = sorted({path.name for path in folder.iterdir()} - {dead})
        clear_dead(tmp_path)  # while its parent has not waited for the dead one, its number is taken
        assert (folder / dead).exists()
        workers[0].wait()
        clear_dead(tmp_path)
        assert sorted(path.name for path in folder.iterdir()) == kept
        for name in kept:
            os.utime(folder / name, (1, 1))
        # nobody holds the one of this process, and it is old: it cannot be on its way to be locked
        clear_dead(tmp_path)
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            [".claims.lock", "elsewhere-12345678-1-abcdef.lock", living]
        )
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def test_a_disk_that_is_away_costs_beats_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, beats = make(tmp_path), []

    def touch(lock: FileLock) -> None:
        beats.append(time.monotonic())
        if len(beats) < 4:
            raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(FileLock, "touch", touch)
    with Heartbeat(study._storage, tmp_path, "w.lock", interval=0.02):
        end = time.monotonic() + 60
        while len(beats) < 6 and time.monotonic() < end:
            time.sleep(0.01)
    assert len(beats) >= 6


class Database:
    """Heartbeats of a database that hangs, fails, or answers."""

    def __init__(self, age: float | None = None) -> None:
        self.beats: list[int] = []
        self.error: Exception | None = None
        self.hang = threading.Event()
        self.hang.set()
        self.age = age

    def get_heartbeat_interval(self) -> int:
        return 15

    def record_heartbeat(self, trial_id: int) -> None:
        self.beats.append(trial_id)
        self.hang.wait(30)
        if self.error is not None:
            raise self.error

    def heartbeat_age(self, trial_id: int) -> Any:
        return None if self.age is None else timedelta(seconds=self.age)


def test_heartbeats_follow_the_trial_and_outlive_errors(tmp_path: Path) -> None:
    database: Any = Database()
    database.error = RuntimeError("the database is away")
    with Heartbeat(database, tmp_path, "w.lock", interval=0.02) as heartbeat:
        for trial in (5, 6):
            heartbeat.trial(trial)
            end = time.monotonic() + 60
            while database.beats.count(trial) < 2 and time.monotonic() < end:
                time.sleep(0.01)
        heartbeat.trial(None)
        time.sleep(0.1)
        beats = len(database.beats)
        time.sleep(0.1)
        assert len(database.beats) == beats
    assert sorted(set(database.beats)) == [5, 6]
    assert database.beats == sorted(database.beats)


def test_leaving_waits_for_no_database(tmp_path: Path) -> None:
    database: Any = Database()
    database.hang.clear()
    with Heartbeat(database, tmp_path, "w.lock") as heartbeat:
        heartbeat.trial(1)
        while not database.beats:
            time.sleep(0.01)
        start = time.monotonic()
    assert time.monotonic() - start < 20  # the database hangs for 30
    database.hang.set()


@pytest.mark.parametrize(("silence", "alive"), [(0, True), (59, True), (62, False)])
def test_another_host_is_judged_by_the_clock_of_the_disk(tmp_path: Path, silence: float, alive: bool) -> None:
    (tmp_path / WORKERS).mkdir()
    path = tmp_path / WORKERS / "w.lock"
    path.touch()
    now = path.stat().st_mtime
    os.utime(path, (now - silence, now - silence))
    database: Any = Database(age=0.0)
    assert is_alive(database, tmp_path, {"host": "another-1", "lock": "w.lock"}, 0) is alive
    assert not is_alive(database, tmp_path, {"host": host_id(), "lock": "w.lock"}, 0)  # nobody holds it here
    assert sorted(os.listdir(path.parent)) == ["w.lock"]  # no probe is left


@pytest.mark.parametrize(("age", "alive"), [(30.0, True), (61.0, False)])
def test_without_a_file_the_heartbeat_tells(tmp_path: Path, age: float, alive: bool) -> None:
    (tmp_path / WORKERS).mkdir()
    database: Any = Database(age)
    assert is_alive(database, tmp_path, {"host": "another-1", "lock": f"{age}.lock"}, 0) is alive


def test_with_neither_the_grace_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / WORKERS).mkdir()
    monkeypatch.setattr(liveness, "GRACE_SECONDS", 0.2)
    storage, worker = make(tmp_path)._storage, {"host": "another-1", "lock": "nowhere.lock"}
    assert is_alive(storage, tmp_path, worker, 0)
    time.sleep(0.3)
    assert not is_alive(storage, tmp_path, worker, 0)
    (tmp_path / WORKERS / "nowhere.lock").touch()  # a shared disk showed it late
    assert is_alive(storage, tmp_path, worker, 0)


def test_a_folder_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("search.study.storage.waiting.fcntl.flock", no_locks)
    database: Any = Database()
    with pytest.raises(ValueError, match=r"w\.lock: cannot be locked \(No locks available\).*disk with file locks"):
        Heartbeat(database, tmp_path, "w.lock").__enter__()


def test_one_folder_for_all_studies_in_it(tmp_path: Path) -> None:
    for name in ("s", "s.final", "s"):
        check_shared_folder(make(tmp_path, name), tmp_path)
    assert json.loads((tmp_path / TOKEN_FILE).read_text())["studies"] == ["s", "s.final"]


def test_a_study_of_another_folder_is_refused(tmp_path: Path) -> None:
    spec = f"sqlite:///{tmp_path / 'shared.db'}"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    check_shared_folder(make(tmp_path / "a", spec=spec), tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"knows the study 's' in another folder: .*/a on .*/b is not that folder.*study_name"
    ):
        check_shared_folder(make(tmp_path / "b", spec=spec), tmp_path / "b")
    assert not (tmp_path / "b" / TOKEN_FILE).exists()
    check_shared_folder(make(tmp_path / "b", "other", spec=spec), tmp_path / "b")
    with pytest.raises(ValueError, match="in another folder"):
        check_shared_folder(make(tmp_path / "b", spec=spec), tmp_path / "b")
    moved = tmp_path / "moved"
    (tmp_path / "a").rename(moved)
    check_shared_folder(make(moved, spec=spec), moved)


def test_a_storage_of_a_later_version_is_refused(tmp_path: Path) -> None:
    study = make(tmp_path)
    check_shared_folder(study, tmp_path)
    study.set_user_attr("folder", {**study.user_attrs["folder"], "layout": 2})
    with pytest.raises(NewerVersion, match="layout 2; this version reads layout 1"):
        check_shared_folder(study, tmp_path)


def test_a_storage_that_forgot_the_study_is_refused(tmp_path: Path) -> None:
    check_shared_folder(make(tmp_path), tmp_path)
    other = f"sqlite:///{tmp_path / 'other.db'}"
    with pytest.raises(ValueError, match=r"holds the study 's', but the storage does not know it"):
        check_shared_folder(make(tmp_path, spec=other), tmp_path)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_death_while_the_token_is_made_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    study, steps = make(tmp_path), []
    write, attribute = liveness.write_atomic, optuna.Study.set_user_attr

    def dying(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if len(steps) == step:
                raise KeyboardInterrupt
            steps.append(real)
            return real(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(liveness, "write_atomic", dying(write))
        patch.setattr(optuna.Study, "set_user_attr", dying(attribute))
        with pytest.raises(KeyboardInterrupt):
            check_shared_folder(study, tmp_path)
    check_shared_folder(make(tmp_path), tmp_path)
    check_shared_folder(make(tmp_path), tmp_path)


def test_a_damaged_token_is_told(tmp_path: Path) -> None:
    study = make(tmp_path)
    (tmp_path / TOKEN_FILE).write_text("{half")
    with pytest.raises(ValueError, match="is damaged"):
        check_shared_folder(study, tmp_path)
