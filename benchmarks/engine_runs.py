"""What benchmarks/engine.py measures: CPU a trial, growth, busy workers, resume, and what the command line costs.

Every function runs commands as a user would give them and reads the trace that benchmarks/engine_app.py writes.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine_measure import Cost, measure

__all__ = [
    "ROOT",
    "Engine",
    "busy",
    "command_line",
    "cost_of_each",
    "cpu_a_trial",
    "fresh",
    "growth",
    "resume",
    "traced",
]

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "benchmarks" / "engine_app.py"
SPACE = ("lr=interval(0,1)", "drop=interval(0,1)", "depth=range(1,9)", "act=choice(relu,gelu,silu)")
SHORTEST, LONGEST = 0.5, 4.0  # seconds a trial lasts where busy workers are measured

Row = dict[str, Any]


@dataclass(frozen=True)
class Engine:
    """One way to run a sweep.

    Attributes:
        name: as the tables show it.
        python: the interpreter whose environment holds it.
        launcher: value of `hydra/launcher`.
        storage: "journal" (ours), "memory", or "sqlite".
        ours: whether it is this repository's sweeper.
        one_batch: whether a sweeper that runs trials in batches gets all of them as one, in place of as many as workers.
    """

    name: str
    python: str
    launcher: str
    storage: str
    ours: bool
    one_batch: bool = False

    @property
    def slug(self) -> str:
        """The name as a folder: Hydra would take a comma for a sweep."""
        return self.name.replace(", ", "-")

    def command(self, folder: Path, trials: int, workers: int, *extra: str, app: Path = APP) -> list[str]:
        """The command of a sweep of the no-op application, at random, that keeps everything below `folder`."""
        sweep = [
            *SPACE,
            f"trace={folder / 'trace'}",
            f"hydra.sweep.dir={folder / 'sweep'}",
            f"hydra.sweeper.n_trials={trials}",
            f"hydra.sweeper.n_jobs={trials if self.one_batch else workers}",
            *self._launcher(workers),
            *self._study(folder),
        ]
        return [self.python, str(app), "-m", *sweep, *extra]

    def run(self, folder: Path, trials: int, workers: int, *extra: str, app: Path = APP) -> Cost:
        """Run a sweep to its end.

        Raises:
            RuntimeError: it failed; the message holds the end of what it printed.
        """
        cost = measure(self.command(folder, trials, workers, *extra, app=app), folder / "log", environment())
        if cost.code:
            raise RuntimeError(f"{self.name} ended with {cost.code}; it printed at the end:\n{cost.log[-3000:]}")
        return cost

    def _launcher(self, workers: int) -> list[str]:
        # on its own each of them runs no more workers than there are cores
        chosen = [f"hydra/launcher={self.launcher}"]
        key = {"joblib": "n_jobs", "local": "workers"}.get(self.launcher)
        return [*chosen, f"hydra.launcher.{key}={workers}"] if key else chosen

    def _study(self, folder: Path) -> list[str]:
        if self.ours:
            random = "{_target_:optuna.samplers.RandomSampler,seed:0}"
            return ["hydra/sweeper=xvol", "hydra.sweeper.study_name=engine", f"hydra.sweeper.sampler={random}"]
        study = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=0"]
        if self.storage == "sqlite":
            return [*study, "hydra.sweeper.study_name=engine", f"hydra.sweeper.storage=sqlite:///{folder / 'study.db'}"]
        return study


@dataclass(frozen=True)
class Traced:
    """One line of the trace: a trial that came to its end."""

    number: int
    pid: int
    began: float
    ended: float
    cpu: float


def environment() -> dict[str, str]:
    """One thread a process; our packages are found without being installed, and a rival's environment ignores them."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def traced(folder: Path) -> list[Traced]:
    """The trials of a run in the order in which they began."""
    lines = [line.split() for line in (folder / "trace").read_text().splitlines()]
    found = [Traced(int(n), int(pid), float(began), float(ended), float(cpu)) for n, pid, began, ended, cpu in lines]
    return sorted(found, key=lambda trial: trial.began)


def fresh(folder: Path) -> Path:
    """An empty folder in the place of whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def cpu_a_trial(engines: Sequence[Engine], folder: Path, trials: int, workers: int, repeats: int) -> Iterator[Row]:
    """CPU seconds a trial of a no-op objective; `start_cpu` is what the same command costs with one trial a worker."""
    for engine in engines:
        starts, wholes = [], []
        for turn in range(repeats):
            starts.append(engine.run(fresh(folder / engine.slug / f"start{turn}"), workers, workers))
            whole = fresh(folder / engine.slug / f"whole{turn}")
            wholes.append(engine.run(whole, trials, workers))
            _expect(engine, whole, trials)
        start, total = (statistics.median(cost.cpu for cost in costs) for costs in (starts, wholes))
        yield {
            "engine": engine.name,
            "trials": trials,
            "workers": workers,
            "cpu": total,
            "start_cpu": start,
            "cpu_a_trial": total / trials,
            "cpu_a_trial_without_start": (total - start) / (trials - workers),
            "wall": statistics.median(cost.wall for cost in wholes),
            "cpu_of_repeats": [round(cost.cpu, 3) for cost in wholes],
        }


def growth(engine: Engine, folder: Path, trials: int, workers: int) -> Row:
    """CPU of a late trial over that of an early one: one study, grown in two commands from 200 trials to `trials`.

    A trial's CPU is what its process spends from the trial's start to the start of the next trial of that process. The
    early window is trials 50 to 149 of a study of 200; the late one the 100 that end 50 before the last.
    """
    early_budget, window = 200, 100
    fresh(folder)
    first = engine.run(folder, early_budget, workers)
    second = engine.run(folder, trials, workers)
    _expect(engine, folder, trials)
    costs = cost_of_each(traced(folder))
    early = [costs[n] for n in range(50, 50 + window) if n in costs]
    middle = [costs[n] for n in range(early_budget + 50, early_budget + 50 + window) if n in costs]
    late = [costs[n] for n in range(trials - 50 - window, trials - 50) if n in costs]
    return {
        "engine": engine.name,
        "trials": trials,
        "workers": workers,
        "early_cpu": statistics.fmean(early),
        "early_in_large_study_cpu": statistics.fmean(middle),
        "late_cpu": statistics.fmean(late),
        "ratio": statistics.fmean(late) / statistics.fmean(early),
        "ratio_of_medians": statistics.median(late) / statistics.median(early),
        "cpu": first.cpu + second.cpu,
        "wall": first.wall + second.wall,
        "storage_mb": sum(path.stat().st_size for path in (folder / "sweep").glob("study.journal*")) / 1e6,
    }


def resume(engine: Engine, folder: Path, workers: int, repeats: int) -> Row:
    """Seconds from the command to the start of the first new trial of the study that `growth` left in `folder`."""
    there = len(traced(folder))
    seconds, cpus = [], []
    for turn in range(repeats):
        known = {trial.number for trial in traced(folder)}
        cost = engine.run(folder, there + (turn + 1) * workers, workers)
        new = [trial for trial in traced(folder) if trial.number not in known]
        seconds.append(new[0].began - cost.start)
        cpus.append(cost.cpu)
    return {
        "engine": engine.name,
        "trials": there,
        "workers": workers,
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "cpu": statistics.median(cpus),
        "seconds_of_repeats": [round(value, 3) for value in seconds],
    }


def busy(engines: Sequence[Engine], folder: Path, counts: Sequence[int], each: int) -> Iterator[Row]:
    """Share of the workers' wall time that is spent inside trials of 0.5 to 4 s, `each` trials a worker.

    The window goes from the moment when each of W processes has begun its first trial to the start of the last trial:
    what comes before is the start, what comes after is the tail, in which nothing is left to take. The share is
    the time inside trials within the window, summed over trials, over W times the window's length. Trial n lasts as
    long under one engine as under another.
    """
    lengths = (f"shortest={SHORTEST}", f"longest={LONGEST}")
    for workers in counts:
        for engine in engines:
            place = fresh(folder / f"{engine.slug}-{workers}")
            cost = engine.run(place, each * workers, workers, *lengths)
            _expect(engine, place, each * workers)
            trials = traced(place)
            opened, closed = _all_at_work(engine, trials, workers), trials[-1].began
            inside = sum(max(0.0, min(t.ended, closed) - max(t.began, opened)) for t in trials)
            yield {
                "engine": engine.name,
                "workers": workers,
                "trials": len(trials),
                "busy": inside / (workers * (closed - opened)),
                "window": closed - opened,
                "seconds_in_trials": sum(t.ended - t.began for t in trials),
                "to_first_trial": trials[0].began - cost.start,
                "wall": cost.wall,
                "cpu": cost.cpu,
            }


def command_line(engines: Sequence[Engine], folder: Path, repeats: int) -> Iterator[Row]:
    """Seconds that `--help` and mistakes take: our own application, and the no-op one under each engine."""
    search = [sys.executable, "-m", "search"]
    cases: list[tuple[str, str, list[str], bool]] = [
        ("python -m search", "--help", [*search, "--help"], False),
        ("python -m search", "wrong key", [*search, "trian.lr=0.1"], True),
        ("python -m search", "wrong value", [*search, "train.lr=abc"], True),
        ("python -m search", "-m, wrong key", [*search, "-m", "placement.polcy=choice(none,stage3)"], True),
        ("python -m search", "-m, wrong value", [*search, "-m", "placement.policy=choice(none,stage9)"], True),
        ("python -m search", "-m, wrong sweeper key", [*search, "-m", "hydra.sweeper.n_trails=3", "seed=0,1"], True),
    ]
    for engine in engines:
        app = [engine.python, str(APP), f"hydra/sweeper={'xvol' if engine.ours else 'optuna'}"]
        cases.append((f"no-op app, {engine.name}", "--help", [*app, "--help"], False))
        cases.append((f"no-op app, {engine.name}", "wrong key", [*app, "nosuch=1"], True))
        cases.append((f"no-op app, {engine.name}", "wrong value", [*app, "lr=abc"], True))
    for name, case, command, fails in cases:
        costs = [measure(command, folder / "log", environment()) for _ in range(repeats)]
        if any((cost.code != 0) is not fails for cost in costs):
            raise RuntimeError(
                f"{' '.join(command)}: expected {'an error' if fails else 'success'}, it ended with {costs[0].code}:\n"
                f"{costs[0].log[-2000:]}"
            )
        yield {
            "command": name,
            "case": case,
            "seconds": statistics.median(cost.wall for cost in costs),
            "fastest": min(cost.wall for cost in costs),
            "cpu": statistics.median(cost.cpu for cost in costs),
        }


def cost_of_each(trials: Sequence[Traced]) -> dict[int, float]:
    """Trial number -> CPU seconds of its process until that process' next trial; the last of each process has none."""
    by_process: dict[int, list[Traced]] = defaultdict(list)
    for trial in trials:
        by_process[trial.pid].append(trial)
    pairs = [pair for own in by_process.values() for pair in pairwise(own)]
    return {now.number: after.cpu - now.cpu for now, after in pairs}


def _all_at_work(engine: Engine, trials: Sequence[Traced], workers: int) -> float:
    """When the last of `workers` processes began its first trial."""
    first: dict[int, float] = {}
    for trial in trials:
        first.setdefault(trial.pid, trial.began)
    if len(first) < workers:
        raise RuntimeError(f"{engine.name}: {workers} workers were asked for, {len(first)} processes ran trials")
    return sorted(first.values())[workers - 1]


def _expect(engine: Engine, folder: Path, trials: int) -> None:
    """A benchmark of trials that did not run, or ran twice, would measure nothing."""
    numbers = sorted(trial.number for trial in traced(folder))
    if numbers != list(range(trials)):
        raise RuntimeError(
            f"{engine.name}: expected trials 0 to {trials - 1}, once each; {len(numbers)} ran, {len(set(numbers))} of them different"
        )
