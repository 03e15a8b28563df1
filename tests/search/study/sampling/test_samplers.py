"""Samplers and pruners by name, and nothing but samplers and pruners."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.trial import TrialState

from search.config import config_folder
from search.space.parameters import Space, parse_space
from search.study.sampling.samplers import is_grid, make_pruner, make_sampler
from search.study.storage.opening import open_storage

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
