"""Runs the toy application as a user would: a process of its own, started from a command line."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial

from search.study.storage.opening import open_storage
from search.study.trials import Counts, Tally, in_list

APP = Path(__file__).parent / "toy" / "app.py"


def count(trials: Sequence[FrozenTrial]) -> Counts:
    """How a study stands, all of its trials counted anew."""
    return Tally().read(in_list(trials))


@dataclass
class Toy:
    """The toy application with its runs and its trace in one folder."""

    folder: Path

    @property
    def trace(self) -> list[list[str]]:
        """Phase, number, x, seed and process of each started trial."""
        path = self.folder / "trace"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def study_dir(self, name: str = "toy") -> Path:
        return self.folder / "runs" / name

    def study(self, name: str = "toy", storage: str | None = None) -> optuna.Study:
        return optuna.load_study(
            study_name=name, storage=open_storage(storage, self.study_dir(re.split("[.~]", name)[0]))
        )

    def command(self, *overrides: str) -> list[str]:
        return [sys.executable, str(APP), "-m", f"trace={self.folder / 'trace'}", *overrides]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "TOY_RUNS": str(self.folder / "runs"), "HYDRA_FULL_ERROR": "1"}

    def start(self, *overrides: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(*overrides),
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *overrides: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*overrides), env=self.environment(), capture_output=True, text=True, timeout=120, check=False
        )


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


@pytest.fixture
def run(toy: Toy) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run the toy application to its end, which must be a success."""

    def successful(*overrides: str) -> "subprocess.CompletedProcess[str]":
        done = toy.run(*overrides)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return successful


ENDED = (
    *("x=choice(1,2,5)", "hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler}", "hydra.sweeper.n_trials=3"),
    *("admit=true", "jitter=0.2", "hydra.sweeper.final.top_k=1", "hydra.sweeper.final.seeds=3"),
    "hydra.sweeper.final.first_seed=1000",
    *("hydra.sweeper.final.baseline=['x=1']", "hydra.sweeper.reuse=study"),
)


@pytest.fixture(scope="session")
def _ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Toy, Path]:
    toy = Toy(tmp_path_factory.mktemp("ended"))
    done = toy.run(*ENDED)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = tmp_path_factory.mktemp("kept") / "whole"
    shutil.copytree(toy.folder, kept)
    return toy, kept


@pytest.fixture
def ended(_ended: tuple[Toy, Path]) -> Iterator[Toy]:
    """A study that has ended, by the command `ENDED`: built once, and put back after each test."""
    toy, kept = _ended
    yield toy
    shutil.rmtree(toy.folder)
    shutil.copytree(kept, toy.folder)
