"""What each storage must keep, with real processes: claims and locks are exclusive, outages cost nothing, the dead are found."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.study import liveness
from search.study.liveness import check_shared_folder, host_id, is_alive
from search.study.storage.opening import open_storage
from search.study.storage.waiting import StorageGone, study_lock

from ..tmpfs import tmpfs

ACTOR = Path(__file__).parent / "actor.py"
pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")


@dataclass
class Store:
    """A storage under test.

    Attributes:
        server: what keeps it, where that can be stopped.
    """

    spec: str | None
    folder: Path
    server: Any = None

    def study(self) -> optuna.Study:
        storage = open_storage(self.spec, self.folder, patience_seconds=30)
        return optuna.create_study(study_name="s", storage=storage, load_if_exists=True)

    def actor(self, what: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, str(ACTOR), what, self.spec or "", str(self.folder), *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


SERVERS = [pytest.param(name, marks=pytest.mark.servers) for name in ("postgres", "redis_server")]


@pytest.fixture(params=["journal", "sqlite", *SERVERS])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "journal":
        return Store(None, tmp_path)
    if request.param == "sqlite":
        return Store(f"sqlite:///{tmp_path / 'study.db'}", tmp_path)
    server = request.getfixturevalue(request.param)
    return Store(server.url, tmp_path, server)


def finished(actors: list[subprocess.Popen[str]]) -> list[list[str]]:
    """The lines of each actor, all of which must come to a good end."""
    lines = []
    for actor in actors:
        out, err = actor.communicate(timeout=120)
        assert actor.returncode == 0, out + err
        lines.append(out.splitlines())
    return lines


def told(lines: list[list[str]]) -> list[int]:
    return sorted(int(line.split()[1]) for each in lines for line in each if line.startswith("told"))


@pytest.mark.slow
def test_four_processes_claim_each_waiting_trial_once(store: Store) -> None:
    study = store.study()
    for _ in range(12):
        study.enqueue_trial({})
    lines = finished([store.actor("claim") for _ in range(4)])
    assert told(lines) == list(range(12))
    trials = store.study().trials
    assert [trial.value for trial in trials] == [float(number) for number in range(12)]


@pytest.mark.slow
def test_the_lock_lets_one_process_in(store: Store) -> None:
    store.study()
    (store.folder / "number").write_text("0")
    finished([store.actor("count") for _ in range(3)])
    assert (store.folder / "number").read_text() == "150"


def test_a_killed_holder_gives_the_lock_back(store: Store) -> None:
    study = store.study()
    holder = store.actor("hold")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holds\n"
    if store.spec and store.spec.startswith("redis"):  # a lease of 30 s: shorten what is left of it
        study._storage._journal.client.pexpire("xvol:lock:s", 2000)
    holder.kill()
    holder.communicate()
    start = time.monotonic()
    with study_lock(study._storage, store.folder, "s"):
        assert time.monotonic() - start < 10


def test_optuna_works_on_it(store: Store) -> None:
    study = store.study()
    study.sampler, study.pruner = optuna.samplers.TPESampler(n_startup_trials=3, seed=0), optuna.pruners.MedianPruner(2)
    study.enqueue_trial({"x": 0.25})

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        trial.set_user_attr("y", {"z": [1, "two"]})
        trial.report(x, 1)
        if trial.should_prune():
            raise optuna.TrialPruned
        return x

    study.optimize(objective, n_trials=8)
    again = store.study()
    assert [trial.number for trial in again.trials] == list(range(8))
    assert again.trials[0].params == {"x": 0.25}
    assert again.trials[0].user_attrs == {"y": {"z": [1, "two"]}}
    assert again.best_value == min(trial.value for trial in again.trials if trial.state == TrialState.COMPLETE)
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        optuna.create_study(study_name="s", storage=again._storage)
    with pytest.raises(KeyError):
        optuna.load_study(study_name="no such study", storage=again._storage)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        again._storage.set_trial_user_attr(again.trials[0]._trial_id, "late", 1)


@pytest.mark.servers
@pytest.mark.parametrize(
    ("store", "how"),
    [("postgres", signal.SIGINT), ("postgres", signal.SIGKILL), ("redis_server", signal.SIGTERM)],
    indirect=["store"],
)
def test_an_outage_of_ten_seconds_loses_and_doubles_nothing(store: Store, how: signal.Signals) -> None:
    """A fast shutdown, and the loss of the machine. A Redis that is killed may lose its last second: see lost answers."""
    study, trials = store.study(), 40
    actors = [store.actor("work", trials) for _ in range(2)]
    while len(study.get_trials(deepcopy=False)) < 8:
        time.sleep(0.05)
    store.server.stop(how)
    time.sleep(10)
    assert all(actor.poll() is None for actor in actors)
    store.server.start()
    lines = finished(actors)
    after = store.study().trials
    assert {trial.state for trial in after} == {TrialState.COMPLETE}
    assert told(lines) == [trial.number for trial in after] == list(range(trials))
    values = {int(words[1]): float(words[2]) for each in lines for words in map(str.split, each) if words[0] == "told"}
    assert values == {trial.number: trial.value for trial in after}
    for each in lines:
        assert sum("does not answer" in line for line in each) == 1, each
        assert sum("is back after" in line for line in each) == 1, each
        assert not any("secret77" in line for line in each)


@pytest.mark.slow
def test_a_killed_worker_is_found_dead(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    study = store.study()
    name = f"{host_id()}-1-abc.lock"
    worker = store.actor("live", name)
    assert worker.stdout is not None
    trial_id = int(worker.stdout.readline().split()[1])
    here, elsewhere = {"host": host_id(), "lock": name}, {"host": "another-1", "lock": name}
    storage, path = study._storage, store.folder / "workers" / name
    monkeypatch.setattr(liveness, "GRACE_SECONDS", 2.0)
    time.sleep(2.5)  # longer than the grace: it is the heartbeat that keeps it alive
    assert is_alive(storage, store.folder, here, trial_id)
    assert is_alive(storage, store.folder, elsewhere, trial_id)
    worker.kill()
    worker.communicate()
    assert not is_alive(storage, store.folder, here, trial_id)
    assert is_alive(storage, store.folder, elsewhere, trial_id)  # the grace
    time.sleep(2.5)
    assert not is_alive(storage, store.folder, elsewhere, trial_id)
    path.unlink()
    assert not is_alive(storage, store.folder, here, trial_id)
    if storage.__class__.__name__ != "PatientDatabase" or storage.get_heartbeat_interval() is None:
        assert is_alive(storage, store.folder, elsewhere, trial_id)  # nothing is known: the grace starts
        time.sleep(2.5)
    assert not is_alive(storage, store.folder, elsewhere, trial_id)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "disk", mebibytes=1) as disk:
        yield disk


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_full_disk_is_waited_for(small_disk: Path, kind: str) -> None:
    store = Store(None if kind == "journal" else f"sqlite:///{small_disk / 'study.db'}", small_disk / "s")
    study, filler = store.study(), small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 512)
    assert os.statvfs(small_disk).f_bavail == 0
    threading.Timer(1.0, filler.unlink).start()
    start = time.monotonic()
    for value in range(5):
        study.tell(study.ask(), float(value))
        study.set_user_attr("filling", "x" * 3000)
    assert time.monotonic() - start > 0.5
    assert [trial.value for trial in store.study().trials] == [0, 1, 2, 3, 4]


@pytest.mark.servers
def test_another_folder_is_refused(postgres: Any, tmp_path: Path) -> None:
    first = Store(postgres.url, tmp_path / "a" / "runs" / "s")
    check_shared_folder(first.study(), first.folder)
    check_shared_folder(first.study(), first.folder)
    second = Store(postgres.url, tmp_path / "b" / "runs" / "s")
    with pytest.raises(ValueError, match=r"in another folder: .*/a/runs/s on .*study_name"):
        check_shared_folder(second.study(), second.folder)


@pytest.mark.servers
def test_four_processes_open_an_empty_database_at_once(postgres: Any, tmp_path: Path) -> None:
    store = Store(postgres.url, tmp_path)
    finished([store.actor("claim") for _ in range(4)])
    assert store.study().trials == []


@pytest.mark.servers
def test_a_database_that_stays_away_is_given_up(postgres: Any, tmp_path: Path) -> None:
    storage = open_storage(postgres.url, tmp_path, patience_seconds=1.0)
    study = optuna.create_study(study_name="s", storage=storage)
    postgres.stop()
    start = time.monotonic()
    with pytest.raises(StorageGone, match=r"has not answered for \d+ s .* give the same command again") as caught:
        study.ask()
    assert 1 <= time.monotonic() - start < 5
    assert "secret77" not in str(caught.value)
    start = time.monotonic()
    with pytest.raises(StorageGone):  # a second call does not wait again
        study.ask()
    assert time.monotonic() - start < 0.5
    postgres.start()
    study.tell(study.ask(), 1.0)


@pytest.mark.servers
def test_a_wrong_name_is_told_at_once(postgres: Any, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"hydra\.sweeper\.storage: cannot open .*nosuch.*does not exist"):
        open_storage(postgres.url.replace("/postgres", "/nosuch"), tmp_path)
    assert time.monotonic() - start < 5
