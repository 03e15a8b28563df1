"""A disk that is full for a while takes no trial away: real processes, a real file system."""

import contextlib
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from ...tmpfs import tmpfs
from .conftest import Toy


def states(toy: Toy) -> list[str]:
    return [trial.state.name for trial in toy.study().trials]


@pytest.mark.slow
def test_a_trial_that_meets_a_full_disk_is_run_again(toy: Toy) -> None:
    done = toy.run("fault=full", "faulty=[0,1,2,3]", "x=range(0,4)", "hydra.sweeper.n_trials=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it goes on from its last saved state once there is room" in done.stdout + done.stderr
    trials = toy.study().trials
    assert [trial.state for trial in trials].count(TrialState.COMPLETE) == 3
    (lost,) = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert "the disk is full" in lost.user_attrs["reason"]


def test_a_trial_that_always_fills_the_disk_fails_in_the_end(toy: Toy) -> None:
    done = toy.run(
        *("fault=always full", "faulty=[0,1,2,3]", "x=range(0,4)", "hydra.sweeper.n_trials=1"),
        *("hydra.sweeper.max_retries=2", "hydra.sweeper.max_failure_rate=1.0"),
    )
    assert done.returncode != 0
    trials = toy.study().trials
    assert [trial.state.name for trial in trials] == ["FAIL"] * 3
    assert "3 times in a row" in trials[-1].user_attrs["reason"]


@pytest.mark.slow
def test_a_study_waits_for_a_disk_that_is_full(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", mebibytes=8) as folder:
        toy = Toy(folder)
        process = toy.start(
            "fault=write", "x=range(0,4)", "hydra.sweeper.n_trials=4", "seconds=0.2", "hydra/launcher=local"
        )
        filler = folder / "filler"
        try:
            while not (folder / "trace").exists():
                assert process.poll() is None
                time.sleep(0.02)
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            time.sleep(1.5)
            assert process.poll() is None, "it has not given up"
            filler.unlink()
            out, err = process.communicate(timeout=60)
        finally:
            filler.unlink(missing_ok=True)
            process.kill()
            process.wait()
        assert process.returncode == 0, out + err
        assert states(toy).count("COMPLETE") == 4
        assert "RUNNING" not in states(toy)
