"""Every pruner, with one objective and with several: bad trials are stopped, the best one is not."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import Trial, TrialState

from search.study.sampling.pruning import Pruning
from search.study.storage.opening import open_storage
from search.study.trials import INTERRUPTED

MEDIAN = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 3, "n_warmup_steps": 2}
PRUNERS: dict[str, dict[str, Any]] = {
    "median": MEDIAN,
    "percentile": {"_target_": "optuna.pruners.PercentilePruner", "percentile": 25.0, "n_startup_trials": 3},
    "successive_halving": {
        "_target_": "optuna.pruners.SuccessiveHalvingPruner",
        "min_resource": 2,
        "reduction_factor": 2,
    },
    "hyperband": {
        "_target_": "optuna.pruners.HyperbandPruner",
        "min_resource": 1,
        "max_resource": 6,
        "reduction_factor": 2,
    },
    "wilcoxon": {"_target_": "optuna.pruners.WilcoxonPruner", "p_threshold": 0.1},
    "threshold": {"_target_": "optuna.pruners.ThresholdPruner", "lower": 20.0, "n_warmup_steps": 2},
    "patient": {"_target_": "optuna.pruners.PatientPruner", "patience": 1, "wrapped_pruner": MEDIAN},
}
DIRECTIONS = {"one": ["maximize"], "minimized": ["minimize"], "two": ["maximize", "minimize"]}
QUALITIES = [60, 55, 65, 58, 0, 99, 62, 1, 70, 2, 64, 3, 61, 4, 66, 5, 63, 0, 100, 1]
STEPS = 6


def curve(quality: float, step: int) -> float:
    """Rises at first and then falls a little, so that a patient pruner has something to lose its patience over."""
    return quality + min(step, 4) - 0.1 * step


def run_study(
    study: optuna.Study, config: dict[str, Any] | None, resume: int = 0, qualities: list[int] = QUALITIES
) -> list[int]:
    """The qualities of the trials that were pruned; `resume`: report so many of the earlier steps twice."""
    pruning, sign = Pruning(study, config), 1 if study.directions[0].name == "MAXIMIZE" else -1
    pruned = []
    for quality in qualities:
        trial = study.ask()
        for step in range(1, STEPS + 1):
            for earlier in range(max(1, step - resume), step):
                pruning.report(trial, earlier, sign * 1000.0)  # the first report of a step counts
                if pruning.should_prune(trial):
                    break
            pruning.report(trial, step, sign * curve(quality, step))
            if pruning.should_prune(trial):
                pruned.append(quality)
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, [sign * curve(quality, STEPS), 1.0 * quality][: len(study.directions)])
    return pruned


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("name", PRUNERS)
def test_the_bad_are_stopped_and_the_best_is_not(name: str, directions: list[str]) -> None:
    config = dict(PRUNERS[name])
    if name == "threshold" and directions == ["minimize"]:
        config = {**config, "lower": None, "upper": -20.0}
    pruned = run_study(optuna.create_study(study_name="a", directions=directions), config)
    bad = [quality for quality in QUALITIES if quality < 10]
    stopped = [quality for quality in pruned if quality < 10]
    assert 99 not in pruned
    assert 100 not in pruned
    if name == "hyperband":  # in its last bracket a trial is not judged before its end
        assert len(stopped) >= len(bad) / 2
    else:
        assert stopped == bad


@pytest.mark.parametrize("name", PRUNERS)
def test_one_objective_is_judged_as_optuna_judges_it(name: str) -> None:
    def optunas(study: optuna.Study) -> list[int]:
        pruned = []
        for quality in QUALITIES:
            trial = study.ask()
            for step in range(1, STEPS + 1):
                trial.report(curve(quality, step), step)
                if trial.should_prune():
                    pruned.append(quality)
                    study.tell(trial, state=TrialState.PRUNED)
                    break
            else:
                study.tell(trial, curve(quality, STEPS))
        return pruned

    config = PRUNERS[name]
    study = optuna.create_study(study_name="a", direction="maximize")
    pruner = Pruning(study, config)._pruner
    expected = optunas(optuna.create_study(study_name="a", direction="maximize", pruner=pruner))
    assert run_study(study, config) == expected
    assert run_study(optuna.create_study(study_name="a", directions=["maximize"] * 2), config) == expected


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("name", PRUNERS)
def test_a_step_that_is_reported_twice_changes_nothing(name: str, directions: list[str]) -> None:
    config = dict(PRUNERS[name])
    if name == "threshold":
        config = {"_target_": config["_target_"], "lower": -200.0, "upper": 200.0}
    once, twice = (optuna.create_study(study_name="a", directions=directions) for _ in range(2))
    assert run_study(once, config) == run_study(twice, config, resume=3)


@pytest.mark.parametrize("config", [None, {}, {"_target_": "optuna.pruners.NopPruner"}])
@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)
def test_no_pruner_prunes_nothing_and_still_keeps_the_values(config: Any, directions: list[str]) -> None:
    study = optuna.create_study(directions=directions)
    assert run_study(study, config) == []
    pruning = Pruning(study, PRUNERS["median"])
    assert len(pruning._rivals.get_trial(study.trials[0]._trial_id).intermediate_values) == STEPS


@pytest.mark.parametrize("interrupted", [True, False])
def test_an_interrupted_trial_is_no_rival_of_the_one_that_takes_its_place(interrupted: bool) -> None:
    study = optuna.create_study(direction="maximize")
    pruning = Pruning(
        study, {"_target_": "optuna.pruners.SuccessiveHalvingPruner", "min_resource": 1, "reduction_factor": 2}
    )
    for quality in (60.0, 60.0, 40.0, 30.0, 55.0):  # 55 is in the better half of four, but not of five
        trial = study.ask()
        pruning.report(trial, 1, quality)
        pruned = pruning.should_prune(trial)
        trial.set_user_attr(INTERRUPTED, interrupted and trial.number == 0)
        study.tell(trial, state=TrialState.FAIL)
    assert pruned != interrupted


def test_a_reused_result_is_no_rival() -> None:
    study = optuna.create_study(direction="maximize")
    trial = study.ask()
    study.tell(trial, 1000.0)
    pruning = Pruning(study, PRUNERS["wilcoxon"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_study(study, PRUNERS["wilcoxon"])
    assert 0 not in [t.number for t in pruning._view.get_trials()]


@pytest.mark.parametrize(
    "sampler", [optuna.samplers.TPESampler(seed=0, n_startup_trials=5), optuna.samplers.NSGAIISampler()]
)
def test_samplers_get_along_with_pruned_trials_of_several_objectives(sampler: Any) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    pruning = Pruning(study, MEDIAN)

    def step(trial: Trial) -> None:
        x = trial.suggest_float("x", 0, 1)
        for epoch in range(1, 5):
            pruning.report(trial, epoch, x * epoch)
            if pruning.should_prune(trial):
                study.tell(trial, state=TrialState.PRUNED)
                return
        study.tell(trial, [x, x])

    for _ in range(25):
        step(study.ask())
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.PRUNED) > 3
    assert states.count(TrialState.COMPLETE) > 3


@pytest.mark.parametrize("spec", [None, "sqlite"])
@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize"]], ids=len)
def test_values_reach_other_processes(spec: str | None, directions: list[str], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db" if spec else None
    study = optuna.create_study(study_name="a", storage=open_storage(url, tmp_path), directions=directions)
    pruned = run_study(study, PRUNERS["successive_halving"], qualities=QUALITIES[:6])
    other = optuna.load_study(study_name="a", storage=open_storage(url, tmp_path))
    view = Pruning(other, PRUNERS["successive_halving"])._view
    assert pruned
    assert len(view.get_trials()) == 6
    assert [t.last_step for t in view.get_trials()].count(STEPS) == 6 - len(pruned)


@pytest.mark.parametrize(
    ("step", "value", "message"),
    [(-1, 1.0, "whole number from 0"), (1.5, 1.0, "whole number"), (True, 1.0, "whole"), (1, "high", "as a number")],
)
def test_a_wrong_report_is_told(step: Any, value: Any, message: str) -> None:
    study = optuna.create_study()
    with pytest.raises(ValueError, match=message):
        Pruning(study, None).report(study.ask(), step, value)


def test_an_unknown_pruner_is_told() -> None:
    with pytest.raises(ValueError, match="did you mean MedianPruner"):
        Pruning(optuna.create_study(), {"_target_": "optuna.pruners.MedianPrunr"})


@pytest.mark.parametrize("name", ["median", "successive_halving", "wilcoxon"])
def test_a_judgement_stays_cheap(name: str, fill: Callable[[optuna.Study, int], None]) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    fill(study, 2000)
    pruning = Pruning(study, PRUNERS[name])
    trial = study.ask()
    spent = []
    for step in range(1, 9):
        pruning.report(trial, step, 100.0)
        begin = time.process_time()
        assert not pruning.should_prune(trial)
        spent.append(time.process_time() - begin)
    assert min(spent) < 0.1


@pytest.fixture
def fill() -> Callable[[optuna.Study, int], None]:
    """Add finished trials whose values were reported epoch by epoch."""

    def add(study: optuna.Study, many: int) -> None:
        several = len(study.directions) > 1
        for number in range(many):
            values = dict.fromkeys(range(1, 9), 50.0 + number % 40)
            study.add_trial(
                optuna.trial.create_trial(
                    values=[values[8]] * len(study.directions),
                    intermediate_values={} if several else values,
                    system_attrs={f"reported:{step}": value for step, value in values.items()} if several else {},
                )
            )

    return add
