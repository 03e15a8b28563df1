"""Samplers and pruners by name, and nothing but samplers and pruners."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.trial import Trial, TrialState

from search.config import config_folder
from search.space.parameters import Space, parse_space
from search.study.sampling.samplers import Pruning, is_grid, make_pruner, make_sampler
from search.study.storage.opening import open_storage
from search.study.trials import INTERRUPTED

SAMPLERS = sorted(path.stem for path in (config_folder() / "sampler").glob("*.yaml"))
NAMED_BY_THE_ISSUE = {
    *("random", "tpe", "tpe_grouped", "gp", "cmaes", "nsgaii", "nsgaiii", "qmc", "grid", "brute_force", "evolution"),
}
MIXED = ["placement.at.stage1=choice(none,conv+pssa,pssa)", "rank=range(1,5)", "lr=tag(log,interval(0.001,1.0))"]
COUNTED = [*MIXED[:2], "drop=choice(0.0,0.1)"]  # 3 x 4 x 2 points


def config_of(name: str) -> dict[str, Any]:
    config = OmegaConf.to_container(OmegaConf.load(config_folder() / "sampler" / f"{name}.yaml"))
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


class Workers:
    """A study on a journal, and how a worker of it asks and tells."""

    def __init__(self, name: str, folder: Path, directions: tuple[str, ...] = ("minimize",)) -> None:
        self.config, self.folder, self.directions = config_of(name), folder, directions
        self.space: Space = parse_space(COUNTED if is_grid(self.config) else MIXED, {})
        if is_grid(self.config):  # as `TrialQueue.write_points` writes them
            study = self.study(0)
            for point in self.space.grid()[:12]:
                study.enqueue_trial(dict(point))

    def study(self, stream: int) -> optuna.Study:
        return optuna.create_study(
            study_name="s",
            storage=open_storage(f"journal:{self.folder}/study.journal", self.folder),
            directions=self.directions,
            sampler=make_sampler(self.config, stream),
            load_if_exists=True,
        )

    def run(self, studies: list[optuna.Study], rounds: int) -> list[dict[str, Any]]:
        """Trials that overlap: each study asks before any of them tells."""
        points = []
        for _ in range(rounds):
            trials = [study.ask({p.name: p.distribution for p in self.space.parameters}) for study in studies]
            for study, trial in zip(studies, trials, strict=True):
                value = float(trial.params["rank"]) + len(trial.params["placement.at.stage1"])
                study.tell(trial, [value, -value, value * value][: len(self.directions)])
                points.append(trial.params)
        return points


def test_every_sampler_that_the_issue_names_has_its_option() -> None:
    assert set(SAMPLERS) == NAMED_BY_THE_ISSUE


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_serves_two_workers_and_a_resumption_of_a_mixed_space(name: str, tmp_path: Path) -> None:
    workers = Workers(name, tmp_path)
    points = workers.run([workers.study(1), workers.study(2)], rounds=4)
    points += workers.run([workers.study(8 * 64)], rounds=4)  # the same command again
    trials = workers.study(0).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 12
    assert [trial.params for trial in trials] == points
    for point in points:
        assert [workers.space.overrides(point)]  # each value is one of its parameter's
        assert all(
            p.distribution._contains(p.distribution.to_internal_repr(point[p.name])) for p in workers.space.parameters
        )
    assert len({tuple(point.values()) for point in points}) == 12


@pytest.mark.parametrize("name", [name for name in SAMPLERS if not is_grid(config_of(name))])
def test_two_workers_do_not_draw_the_same(name: str, tmp_path: Path) -> None:
    workers = Workers(name, tmp_path)
    points = workers.run([workers.study(1), workers.study(2)], rounds=3)
    assert [tuple(point.values()) for point in points[0::2]] != [tuple(point.values()) for point in points[1::2]]
    assert len({tuple(point.values()) for point in points}) == 6
    assert len({point["lr"] for point in points}) == 6


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"cmaes"}))
def test_a_sampler_takes_three_objectives(name: str, tmp_path: Path) -> None:
    workers = Workers(name, tmp_path, ("minimize", "maximize", "minimize"))
    assert len(workers.run([workers.study(1)], rounds=12)) == 12


@pytest.mark.parametrize("name", ["tpe_grouped", "evolution", "random"])
def test_a_sampler_takes_a_conditional_space(name: str) -> None:
    study = optuna.create_study(
        sampler=make_sampler({**config_of(name), "n_startup_trials": 4} if name != "random" else config_of(name), 0)
    )
    kinds = set()
    for _ in range(25):
        trial = study.ask()
        if trial.suggest_categorical("placement.at.stage1", ["none", "pssa"]) == "pssa":
            trial.suggest_int("rank", 1, 4)
        kinds.add(tuple(trial.params))
        study.tell(trial, len(trial.params))
    assert kinds == {("placement.at.stage1",), ("placement.at.stage1", "rank")}


def test_a_quasi_random_sequence_is_one_for_all_workers(tmp_path: Path) -> None:
    workers = Workers("qmc", tmp_path)
    workers.run([workers.study(1), workers.study(2)], rounds=3)
    workers.run([workers.study(64)], rounds=3)
    counters = workers.study(0)._storage.get_study_system_attrs(0)
    assert list(counters.values()) == [7]  # in the first round the space is not known yet


def test_brute_force_is_the_grid() -> None:
    """Optuna's own would end the study from within the last `tell`, which raises in a worker."""
    study = optuna.create_study(sampler=make_sampler(config_of("brute_force"), 0))
    for value in (0, 1):
        study.enqueue_trial({"x": value})
        trial = study.ask()
        assert trial.suggest_int("x", 0, 1) == value
        study.tell(trial, 0.0)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2


@pytest.mark.parametrize("name", ["GridSampler", "BruteForceSampler"])
def test_a_grid_takes_its_points_from_the_sweep_alone(name: str) -> None:
    config = {"_target_": f"optuna.samplers.{name}", "search_space": {"x": [1]}}
    assert is_grid(config)
    with pytest.raises(ValueError, match=r"does not take search_space; it takes seed.*hydra\.sweeper\.params"):
        make_sampler(config, 0)


@pytest.mark.parametrize("target", ["search.study.sampling.evolution.EvolutionSampler", "EvolutionSampler"])
def test_our_own_sampler_is_allowed_by_name(target: str) -> None:
    assert type(make_sampler({"_target_": target, "seed": 1}, 0)).__name__ == "EvolutionSampler"
    with pytest.raises(
        ValueError, match=r"hydra\.sweeper\.sampler: EvolutionSampler\(population_size=0\): population_size=0"
    ):
        make_sampler({"_target_": target, "population_size": 0}, 0)
    with pytest.raises(ValueError, match="it takes population_size"):
        make_sampler({"_target_": target, "size": 3}, 0)
    with pytest.raises(ValueError, match=r"give optuna\.pruners"):
        make_pruner({"_target_": target})


def draws(stream: int, seed: int | None = 3) -> list[float]:
    sampler = make_sampler({"_target_": "optuna.samplers.RandomSampler", "seed": seed}, stream)
    study = optuna.create_study(sampler=sampler)
    return [study.ask().suggest_float("x", 0, 1) for _ in range(3)]


def test_streams_are_reproducible_and_apart() -> None:
    assert draws(0) == draws(0)
    assert len({tuple(draws(stream)) for stream in range(5)}) == 5


@pytest.mark.parametrize(
    "name", ["TPESampler", "RandomSampler", "GPSampler", "CmaEsSampler", "QMCSampler", "NSGAIISampler"]
)
def test_every_sampler_of_the_config_groups_is_built(name: str) -> None:
    assert type(make_sampler({"_target_": f"optuna.samplers.{name}", "seed": 0}, 1)).__name__ == name


def test_a_grid_is_written_beforehand() -> None:
    assert is_grid({"_target_": "optuna.samplers.GridSampler"})
    assert not is_grid({"_target_": "optuna.samplers.TPESampler"})
    assert not is_grid(None)
    assert isinstance(make_sampler({"_target_": "optuna.samplers.GridSampler"}, 0), optuna.samplers.RandomSampler)


def test_pruners() -> None:
    assert isinstance(make_pruner(None), optuna.pruners.NopPruner)
    wrapped = {"_target_": "optuna.pruners.MedianPruner"}
    patient = make_pruner({"_target_": "optuna.pruners.PatientPruner", "wrapped_pruner": wrapped, "patience": 2})
    assert isinstance(patient, optuna.pruners.PatientPruner)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os.system", "give optuna.samplers.NAME"),
        ("optuna.samplers.TPESamplr", "did you mean TPESampler"),
        ("search.study.sampling.evolution.BaseSampler", "or search.study.sampling.evolution.EvolutionSampler"),
        ("search.study.sampling.evolution.Evolution", "did you mean EvolutionSampler"),
        ("optuna.samplers.BaseSampler", "give optuna.samplers.NAME"),
        ("optuna.pruners.MedianPruner", "give optuna.samplers.NAME"),
        ("", "missing"),
    ],
)
def test_only_optunas_own_samplers(target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_sampler({"_target_": target}, 0)


@pytest.mark.parametrize("seed", ["x", 1.5, True])
def test_a_seed_that_is_no_whole_number_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match=rf"hydra\.sweeper\.sampler\.seed={seed}: give a whole number, or null"):
        make_sampler({"_target_": "optuna.samplers.RandomSampler", "seed": seed}, 0)


def test_a_wrong_argument_is_told_with_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match=r"it takes .*n_warmup_steps"):
        make_pruner({"_target_": "optuna.pruners.MedianPruner", "n_warmup": 3})
    with pytest.raises(ValueError, match=r"hydra\.sweeper\.pruner: PercentilePruner\(percentile=200\): "):
        make_pruner({"_target_": "optuna.pruners.PercentilePruner", "percentile": 200})


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


@pytest.mark.slow
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
