"""Samplers and pruners by name, and nothing but samplers and pruners."""

import optuna
import pytest

from search.study.samplers import is_grid, make_pruner, make_sampler


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
        ("optuna.samplers.BaseSampler", "give optuna.samplers.NAME"),
        ("optuna.pruners.MedianPruner", "give optuna.samplers.NAME"),
        ("", "missing"),
    ],
)
def test_only_optunas_own_samplers(target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_sampler({"_target_": target}, 0)


def test_a_wrong_argument_is_told_with_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match=r"it takes .*n_warmup_steps"):
        make_pruner({"_target_": "optuna.pruners.MedianPruner", "n_warmup": 3})
    with pytest.raises(ValueError, match=r"hydra\.sweeper\.pruner: PercentilePruner"):
        make_pruner({"_target_": "optuna.pruners.PercentilePruner", "percentile": 200})
