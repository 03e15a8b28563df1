"""What a user of Hydra's official Optuna sweeper brings along: the kinds of examples its manual has, under our sweeper.

docs/sweeper.md tells the same in words; what it calls the same, and each difference that it names, is tried here.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from search.space.parameters import parse_space
from search.study.options import SweeperOptions

OFFICIAL_KEYS = {
    "sampler", "direction", "storage", "study_name", "n_trials", "n_jobs", "max_failure_rate", "params",
    "custom_search_space",
}  # fmt: skip
GRID = "hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler}"

QUADRATIC = """
import json
import hydra
from hydra.core.hydra_config import HydraConfig


@hydra.main(version_base=None, config_path=".", config_name="config")
def quadratic(cfg):
    with open(cfg.seen, "a") as seen:
        point = {name: cfg[name] for name in cfg if name != "seen"}
        seen.write(json.dumps([HydraConfig.get().job.num, point, HydraConfig.get().runtime.output_dir]) + "\\n")
    VALUE


if __name__ == "__main__":
    quadratic()
"""

CONFIG = """
defaults:
  - _self_
  - override hydra/sweeper: xvol

seen: ${oc.env:SEEN}
KEYS
hydra:
  output_subdir: null
  sweep: {dir: sweep, subdir: "${hydra.job.num}"}
  sweeper:
    study_name: manual
    sampler: {_target_: optuna.samplers.RandomSampler, seed: 1}
    n_jobs: 1
PARAMS
"""


class App:
    """A small Hydra application in a folder of its own."""

    def __init__(self, folder: Path, keys: Mapping[str, Any], value: str, sweeper: str = "", extra: str = "") -> None:
        self.folder = folder
        keys_text = "".join(f"{name}: {json.dumps(default)}\n" for name, default in keys.items())
        (folder / "app.py").write_text(QUADRATIC.replace("VALUE", value) + extra)
        (folder / "config.yaml").write_text(CONFIG.replace("KEYS", keys_text).replace("PARAMS", sweeper))

    def run(self, *overrides: str) -> str:
        done = subprocess.run(
            [sys.executable, "app.py", "-m", *overrides],
            cwd=self.folder,
            env={**os.environ, "SEEN": str(self.folder / "seen"), "HYDRA_FULL_ERROR": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def trials(self) -> list[FrozenTrial]:
        backend = JournalFileBackend(str(self.folder / "sweep" / "study.journal"))
        return optuna.load_study(study_name="manual", storage=JournalStorage(backend)).trials

    def seen(self) -> dict[int, dict[str, Any]]:
        """Number -> the point that the task was given."""
        lines = [json.loads(line) for line in (self.folder / "seen").read_text().splitlines()]
        assert len({folder for _, _, folder in lines}) == len(lines)
        return {number: point for number, point, _ in lines}


def test_every_key_of_the_official_sweeper_is_taken() -> None:
    assert {field.name for field in fields(SweeperOptions)} >= OFFICIAL_KEYS


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("x=interval(-5.5,5.5)", FloatDistribution(-5.5, 5.5)),
        ("x=interval(1,4)", FloatDistribution(1.0, 4.0)),
        ("x=int(interval(1,4))", IntDistribution(1, 4)),
        ("x=float(interval(1,4))", FloatDistribution(1.0, 4.0)),
        ("x=tag(log,interval(1,100))", FloatDistribution(1.0, 100.0, log=True)),
        ("x=tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("x=tag(log,int(interval(1.5,100.5)))", IntDistribution(1, 100, log=True)),
        ("x=range(0,4)", IntDistribution(0, 3)),
        ("x=range(5)", IntDistribution(0, 4)),
        ("x=range(-4,5,2)", IntDistribution(-4, 4, step=2)),
        ("x=range(-5.5,5.5,step=0.5)", FloatDistribution(-5.5, 5.0, step=0.5)),
        ("x=choice(-5,0,5)", CategoricalDistribution([-5, 0, 5])),
        ("x=-5,0,5", CategoricalDistribution([-5, 0, 5])),
        ("x=choice(adam,sgd,'a b')", CategoricalDistribution(["adam", "sgd", "a b"])),
        ("x=true,null,1.5", CategoricalDistribution([True, None, 1.5])),
        ("x=int(range(1.0,4.0))", IntDistribution(1, 3)),
        ("x=shuffle(range(1,4))", CategoricalDistribution([1, 2, 3])),
        ("x=tag(size,choice(1,2))", CategoricalDistribution([1, 2])),
        ("+x=choice(1,2)", CategoricalDistribution([1, 2])),
    ],
)
def test_the_override_grammar_of_the_manual(override: str, distribution: Any) -> None:
    (parameter,) = parse_space([override], {}).parameters
    assert parameter.distribution == distribution
    assert parameter.name == "x"
    assert parse_space([], dict([override.lstrip("+").split("=", 1)])).parameters[0].distribution == distribution


@pytest.mark.slow
def test_a_space_in_the_config_a_fixed_value_on_the_command_line_and_a_budget_that_is_not_run_again(
    tmp_path: Path,
) -> None:
    space = "    params:\n      x: interval(-10, 10)\n      y: range(-5.5, 5.5, step=0.5)\n      z: choice(-5, 0, 5)\n"
    app = App(tmp_path, {"x": 0.0, "y": 0.0, "z": 0}, "return cfg.x**2 + cfg.y**2 + cfg.z", space)
    app.run("hydra.sweeper.n_trials=6", "z=5")
    trials = app.trials()
    assert [set(trial.params) for trial in trials] == [{"x", "y"}] * 6
    assert {point["z"] for point in app.seen().values()} == {5}
    for trial in trials:
        point = app.seen()[trial.number]
        assert (point["x"], point["y"]) == (trial.params["x"], trial.params["y"])
        assert trial.value == pytest.approx(point["x"] ** 2 + point["y"] ** 2 + 5)
    app.run("hydra.sweeper.n_trials=7", "z=5")  # the official sweeper would run seven more
    assert len(app.trials()) == len(app.seen()) == 7


@pytest.mark.slow
def test_a_sphere_from_the_command_line(tmp_path: Path) -> None:
    app = App(tmp_path, {"a": 0.0, "b": 0, "c": 0, "d": 1, "e": "", "f": 0.0}, "return cfg.a**2 + cfg.b**2 + cfg.d")
    app.run(
        *("a=interval(-5.5,5.5)", "b=range(-5,6)", "c=choice(-5,0,5)", "d=tag(log,int(interval(1,100)))", "e=adam,sgd"),
        *("f=float(interval(1,2))", "hydra.sweeper.n_trials=8", "hydra.sweeper.direction=minimize"),
    )
    assert len(app.seen()) == 8
    for trial in app.trials():
        point = app.seen()[trial.number]
        assert point == trial.params
        assert -5.5 <= point["a"] <= 5.5
        assert point["b"] in range(-5, 6)
        assert point["c"] in (-5, 0, 5)
        assert isinstance(point["d"], int)
        assert 1 <= point["d"] <= 100
        assert point["e"] in ("adam", "sgd")
        assert 1.0 <= point["f"] <= 2.0
    best = min(app.trials(), key=lambda trial: trial.value or 0.0)
    written = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert written == {"name": "optuna", "best_params": best.params, "best_value": best.value}


def test_a_conditional_space_in_code(tmp_path: Path) -> None:
    space = "    custom_search_space: space.configure\n"
    app = App(tmp_path, {"x": 0.0, "y": 0.0, "z": 0.0, "wide": False}, "return cfg.x + cfg.y + cfg.z", space)
    (tmp_path / "space.py").write_text(
        "def configure(cfg, trial):\n"
        "    x = trial.params['x']\n"
        "    assert cfg.x == x\n"  # the config is the trial's own; the official sweeper gives the sweep's
        "    trial.suggest_float('y', 0, 10 if cfg.wide else 1)\n"
        "    if x > 0:\n"
        "        trial.suggest_float('z', 100, 101)\n"
    )
    app.run("x=interval(-1.0,1.0)", "wide=true", "hydra.sweeper.n_trials=8", "hydra.sweeper.sampler.seed=3")
    trials = app.trials()
    assert {("z" in trial.params) is (trial.params["x"] > 0) for trial in trials} == {True}
    assert {"z" in trial.params for trial in trials} == {True, False}
    assert max(trial.params["y"] for trial in trials) > 1
    for trial in trials:
        point = app.seen()[trial.number]
        assert {name: point[name] for name in trial.params} == trial.params
        assert trial.params.get("z", 0.0) == point["z"]


def test_two_objectives(tmp_path: Path) -> None:
    value = "return 4 * cfg.x**2 + 4 * cfg.y**2, (cfg.x - 5) ** 2 + (cfg.y - 5) ** 2"
    space = "    direction: [minimize, minimize]\n    params: {x: 'interval(0.0, 5.0)', y: 'interval(0.0, 3.0)'}\n"
    app = App(tmp_path, {"x": 0.0, "y": 0.0}, value, space)
    app.run("hydra.sweeper.n_trials=8", "hydra.sweeper.sampler={_target_:optuna.samplers.NSGAIISampler,seed:3}")
    trials = app.trials()
    assert len(trials) == 8
    for trial in trials:
        x, y = trial.params["x"], trial.params["y"]
        assert trial.values == pytest.approx([4 * x**2 + 4 * y**2, (x - 5) ** 2 + (y - 5) ** 2])


@pytest.mark.slow
def test_a_grid_goes_on_where_one_result_is_not_a_number(tmp_path: Path) -> None:
    value = "return float('nan') if cfg.x == 2 else cfg.x * cfg.y"
    app = App(tmp_path, {"x": 0, "y": 0}, value)
    app.run("x=range(1,4)", "y=choice(10,20)", GRID, "hydra.sweeper.n_trials=50", "hydra.sweeper.max_retries=0")
    trials = app.trials()
    assert [(t.params["x"], t.params["y"]) for t in trials] == [(x, y) for x in (1, 2, 3) for y in (10, 20)]
    assert [t.state for t in trials] == [TrialState.FAIL if t.params["x"] == 2 else TrialState.COMPLETE for t in trials]
    assert "NaN" in trials[2].user_attrs["reason"]
