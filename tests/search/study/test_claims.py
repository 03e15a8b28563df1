"""Handing trials out and taking them back, in one process."""

import platform
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.ledger.paths import WORKERS
from search.study.claims import Desk, count
from search.study.locks import FileLock


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study()


def test_a_budget_counts_what_is_there(study: optuna.Study, tmp_path: Path) -> None:
    desk = Desk(study, tmp_path)
    assert desk.top_up(5) == 5
    assert desk.top_up(5) == 0
    trial = desk.claim("w.lock")
    assert trial is not None
    study.tell(trial, 1.0)
    assert desk.top_up(5) == 0
    assert desk.top_up(7) == 2
    assert count(study.trials).finished == 1


def test_no_trial_is_made_up_where_none_waits(study: optuna.Study, tmp_path: Path) -> None:
    desk = Desk(study, tmp_path)
    assert desk.claim("w.lock") is None
    assert study.trials == []


def test_the_dead_are_recovered_and_the_living_left_alone(study: optuna.Study, tmp_path: Path) -> None:
    desk = Desk(study, tmp_path)
    desk.top_up(3)
    alive = FileLock(tmp_path / WORKERS / "alive.lock")
    with alive:
        living, dead, elsewhere = desk.claim("alive.lock"), desk.claim("dead.lock"), desk.claim("far.lock")
        assert living is not None
        assert dead is not None
        assert elsewhere is not None
        elsewhere.set_user_attr("worker", {"host": platform.node() + "x", "lock": "far.lock"})
        assert dead.suggest_int("x", 0, 100) >= 0
        assert [trial.number for trial in desk.recover()] == [dead.number]
    again = study.trials[3]
    assert again.state == TrialState.WAITING
    assert again.system_attrs["fixed_params"] == dead.params
    assert count(study.trials).failed == 0
    assert desk.top_up(3) == 0


def test_cells_are_written_once_and_again_after_an_interruption(study: optuna.Study, tmp_path: Path) -> None:
    desk = Desk(study, tmp_path)
    cells = [{"cell": f"a/{seed}", "overrides": [f"seed={seed}"], "is_baseline": True} for seed in (1, 2)]
    assert desk.write(cells) == 2
    assert desk.write(cells) == 0
    trial = desk.claim("w.lock")
    assert trial is not None
    desk.interrupt(trial, "Ctrl-C")
    assert desk.write(cells) == 0
    waiting = study.get_trials(states=(TrialState.WAITING,))
    assert sorted(trial.user_attrs["cell"] for trial in waiting) == ["a/1", "a/2"]
    assert [trial.user_attrs["overrides"] for trial in waiting if trial.user_attrs["cell"] == "a/1"] == [["seed=1"]]


def test_a_grid_takes_the_first_points_and_goes_on_later(study: optuna.Study, tmp_path: Path) -> None:
    desk, points = Desk(study, tmp_path), [{"x": x} for x in range(4)]
    assert desk.top_up(2, points) == 2
    assert desk.top_up(9, points) == 2
    asked = []
    while (trial := desk.claim("w.lock")) is not None:
        asked.append(trial.suggest_categorical("x", [0, 1, 2, 3]))
        study.tell(trial, 0.0)
    assert asked == [0, 1, 2, 3]
    assert desk.top_up(9, points) == 0


def test_a_trial_that_kills_every_worker_is_given_up(study: optuna.Study, tmp_path: Path) -> None:
    desk = Desk(study, tmp_path)
    desk.top_up(1)
    for death in range(1, 4):
        trial = desk.claim("dead.lock")
        assert trial is not None
        trial.suggest_int("x", 0, 100)
        assert [trial.number for trial in desk.recover()] == [death - 1]
    assert desk.claim("dead.lock") is None
    assert count(study.trials).failed == 1
    assert study.trials[2].user_attrs["reason"].startswith("its worker died, 3 times in a row")
    assert len({trial.params["x"] for trial in study.trials}) == 1
    assert desk.top_up(1) == 0


def test_ctrl_c_is_not_held_against_a_trial(study: optuna.Study, tmp_path: Path) -> None:
    desk = Desk(study, tmp_path)
    desk.top_up(1)
    for _ in range(5):
        trial = desk.claim("w.lock")
        assert trial is not None
        desk.interrupt(trial, "Ctrl-C")
    assert desk.claim("w.lock") is not None
