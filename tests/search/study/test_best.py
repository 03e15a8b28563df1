"""The file of the best point: the official sweeper's keys, and the truth about the value."""

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from search.study.best import RESULTS_FILE, write_best

optuna.logging.set_verbosity(optuna.logging.WARNING)


def study_of(values: list[tuple[float, ...]], *directions: Any) -> optuna.Study:
    study = optuna.create_study(directions=directions, sampler=optuna.samplers.RandomSampler(seed=0))
    for value in values:
        trial = study.ask()
        trial.suggest_float("lr", 0, 1)
        trial.suggest_categorical("where", ["none", "stage3", True, 2])
        study.tell(trial, value)
    return study


@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=6), direction=st.sampled_from(["minimize", "maximize"]))
def test_one_objective_gives_the_best_point(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], direction: str
) -> None:
    study = study_of([(value,) for value in values], direction)
    text = write_best(study, tmp_path_factory.mktemp("best")).read_text()
    found = yaml.safe_load(text)
    assert found == {"name": "optuna", "best_params": study.best_params, "best_value": study.best_value}
    assert f"among {len(values)} finished trials" in text


def test_several_objectives_give_the_front(tmp_path: Path) -> None:
    study = study_of([(1, 1), (2, 0), (0, 2), (0.5, 0.5)], "maximize", "maximize")
    failed = study.ask()
    study.tell(failed, state=optuna.trial.TrialState.FAIL)
    found = yaml.safe_load(write_best(study, tmp_path).read_text())
    assert [each["values"] for each in found["solutions"]] == [[1, 1], [2, 0], [0, 2]]
    assert [each["params"] for each in found["solutions"]] == [study.trials[n].params for n in (0, 1, 2)]


def test_a_password_among_the_choices_is_masked(tmp_path: Path) -> None:
    study = optuna.create_study()
    trial = study.ask()
    trial.suggest_categorical("storage", ["postgresql://me:geheim@host/name"])
    study.tell(trial, 1.0)
    assert "geheim" not in write_best(study, tmp_path).read_text()
    assert (tmp_path / RESULTS_FILE).exists()
