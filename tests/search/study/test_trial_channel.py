"""One run is trained once over all studies below one folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from search.ledger.index import INDEX_FILE
from search.ledger.result import RESULT_FILE, TrialResult, read_result, write_result
from search.ledger.study_files import STATE_FILE, WORKERS
from search.study.sampling.samplers import Pruning
from search.study.spec import open_queue
from search.study.storage.waiting import FileLock
from search.study.trial_channel import Runs, StudyChannel
from search.study.trials import FOLDER, SKIPPED

from .conftest import Toy, count
from .test_spec import spec as spec_of


class Worker:
    """A worker of a study, as far as its runs go: at most one at a time, and a lock while it lives."""

    def __init__(self, root: Path, study: str, name: str) -> None:
        self.study, self.name, self.number = root / study, name, 0
        self.holding: tuple[str, str] | None = None  # fingerprint, subdir
        self.copies = 0
        self.begin_life()

    def begin_life(self) -> None:
        self.number += 1
        lock = f"{self.name}{self.number}.lock"
        (self.study / WORKERS).mkdir(parents=True, exist_ok=True)
        self.lock = ExitStack()
        self.lock.enter_context(FileLock(self.study / WORKERS / lock))
        self.runs = Runs(self.study, lock, "all")

    def propose(self, fingerprint: str, number: int) -> None:
        subdir = f"trials/{number:04d}-s0"
        with self.runs.locked():
            found = self.runs.find(fingerprint, "search")
            if found is None and self.runs.in_flight(fingerprint) is None:
                self.runs.begin(fingerprint, subdir)
                self.holding = (fingerprint, subdir)
            else:
                running = self.runs.in_flight(fingerprint)
                assert running is None or self.runs.awaits(fingerprint, running.place)
        if found is not None:
            self.write(fingerprint, subdir, "ok", read_result(found).run_dir)

    def end(self, how: str) -> None:
        assert self.holding is not None
        if how == "die":
            self.lock.close()
            self.begin_life()
        elif how == "nothing written":
            self.runs.end()
        else:
            self.write(*self.holding, how, None)
        self.holding = None

    def write(self, fingerprint: str, subdir: str, status: str, source: str | None) -> None:
        folder = self.study / subdir
        folder.mkdir(parents=True)
        facts = {"study": self.study.name, "trial": 0, "phase": "search", "seed": 0, "run_dir": subdir}
        write_result(folder, TrialResult(**facts, status=status, fingerprint=fingerprint, reused_from=source))  # type: ignore[arg-type]


STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from("abc"),
        st.sampled_from(["ok", "ok", "failed", "interrupted", "die", "stay", "nothing written"]),
    ),
    max_size=25,
)


@given(steps=STEPS, lose=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_studies_do_at_once_nothing_is_trained_twice(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, str]], lose: bool
) -> None:
    root = tmp_path_factory.mktemp("runs")
    workers = [Worker(root, study, name) for study, name in (("one", "v"), ("one", "w"), ("two", "x"), ("three", "y"))]
    for number, (who, fingerprint, how) in enumerate(steps):
        if workers[who].holding is None:
            workers[who].propose(fingerprint, number)
        elif how != "stay":
            workers[who].end(how)
        if lose and not any(worker.holding for worker in workers):  # who trains now would be forgotten
            (root / INDEX_FILE).unlink(missing_ok=True)
        held = Counter(worker.holding[0] for worker in workers if worker.holding is not None)
        assert not held or max(held.values()) == 1
    trained = Counter(
        result.fingerprint
        for path in root.glob(f"*/trials/*/{RESULT_FILE}")
        if (result := read_result(path)).status == "ok" and result.reused_from is None
    )
    assert not trained or max(trained.values()) == 1
    for worker in workers:
        worker.lock.close()
    shutil.rmtree(root)


@pytest.mark.slow
def test_studies_that_run_at_once_share_what_they_train(toy: Toy) -> None:
    """Each point is trained once by one of them, counts there, and is taken over by the others."""
    common = ["x=choice(0,1,2,3,4)", "admit=true", "seconds=0.4", "hydra.sweeper.n_trials=5", "hydra/launcher=basic"]
    started = [
        toy.start(*common, f"hydra.sweeper.study_name={name}", f"hydra.sweeper.sampler.seed={seed}")
        for seed, name in enumerate(("a", "b", "c"))
    ]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], "\n".join(outputs)
    trained = [tuple(line[2:4]) for line in toy.trace]
    assert sorted(trained) == [(str(x), "0") for x in range(5)]
    finished = 0
    for name in "abc":
        trials = toy.study(name).trials
        finished += count(trials).finished
        assert {trial.params["x"] for trial in trials if trial.state == TrialState.COMPLETE} == set(range(5))
        assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert finished == len(trained)


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "budget"), [("RandomSampler", 3), ("GridSampler", 6)])
def test_two_workers_of_one_study_train_each_point_once_and_no_trial_fails(toy: Toy, sampler: str, budget: int) -> None:
    # the toy's network does not depend on y: two points of the space are one run
    common = ["x=choice(0,1,2)", "y=choice(0,1)", "admit=true", "seconds=0.4", f"hydra.sweeper.n_trials={budget}"]
    workers = ["hydra/launcher=local", "hydra.launcher.workers=2"]
    done = toy.run(*common, *workers, f"hydra.sweeper.sampler={{_target_:optuna.samplers.{sampler}}}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(line[2] for line in toy.trace) == ["0", "1", "2"]
    trials = toy.study().trials
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert count(trials).finished == budget
    assert {trial.user_attrs.get(SKIPPED) for trial in trials} <= {None, "reused"}


@pytest.mark.slow
def test_seeds_of_a_trial_are_trained_once_and_a_trial_that_trained_any_counts(toy: Toy) -> None:
    common = ["x=choice(0,1)", "admit=true", "hydra.sweeper.n_trials=2", "hydra.sweeper.sampler.seed=1"]
    for name, seeds in (("a", ["seed=1"]), ("b", ["seed=0", "hydra.sweeper.seeds_per_trial=3"])):
        done = toy.run(*common, f"hydra.sweeper.study_name={name}", *seeds)
        assert done.returncode == 0, done.stdout + done.stderr
    trained = Counter((line[2], line[3]) for line in toy.trace)
    assert trained == {(x, seed): 1 for x in "01" for seed in "012"}
    assert count(toy.study("b").trials).finished == 2
    done = toy.run(*common, "hydra.sweeper.study_name=c", "seed=0", "hydra.sweeper.seeds_per_trial=2")
    assert count(toy.study("c").trials).finished == 0
    assert len(toy.trace) == 6


@pytest.mark.slow
def test_a_study_beside_one_that_trained_everything_trains_nothing(tmp_path: Path) -> None:
    """The whole application: what a trial took over is taken over again, and not trained and passed for a copy."""
    small = [
        "tracker=disabled",
        "train.epochs=1",
        "data.train_size=64",
        "data.val_size=32",
        "measure.latency_repeats=1",
    ]
    for name, trials in (("a", 2), ("b", 1)):
        command = [
            *(sys.executable, "-m", "search", "-m", "data=digits", *small, "placement.policy=choice(none,stage3)"),
            *("sampler=random", "hydra.sweeper.sampler.seed=1", "hydra/launcher=basic", "hydra.sweeper.max_skips=4"),
            *(f"hydra.sweep.dir=runs/{name}", f"hydra.sweeper.study_name={name}", f"hydra.sweeper.n_trials={trials}"),
            "hydra.sweeper.final.top_k=0",
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(path.read_text()) for path in tmp_path.glob(f"runs/*/trials/*/{RESULT_FILE}")]
    trained = [row for row in rows if row["reused_from"] is None]
    assert [row["study"] for row in trained] == ["a", "a"]
    copies = [row for row in rows if row["study"] == "b"]
    assert len(copies) > 2
    assert {row["reused_from"].partition("/")[0] for row in copies} == {"a"}


def test_an_attempt_goes_on_from_the_folder_that_the_earlier_one_had(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    queue = open_queue(spec)
    first = queue.claim("first.lock")
    assert first is not None
    first.set_user_attr(FOLDER, "trials/0000-s0.2")  # beside that of a trial which the storage has forgotten
    for subdir in ("trials/0000-s0", "trials/0000-s0.2"):
        (tmp_path / subdir).mkdir(parents=True)
        (tmp_path / subdir / STATE_FILE).touch()
    queue.interrupt(first, "stopped")
    again = queue.claim("second.lock")
    assert again is not None
    runs = Runs(tmp_path, "second.lock", "none")
    channels = [
        StudyChannel(again, spec, seed, queue, Pruning(queue.study, None), runs, lambda: False) for seed in (0, 1)
    ]
    assert [channel.resume_from for channel in channels] == [str(tmp_path / "trials/0000-s0.2"), None]
