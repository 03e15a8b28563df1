"""What can be known of a study's cells before any of them is trained: what they cost, and how long they will take.

Networks are built and a few steps are trained on the CPU; no accelerator is taken, and test images are never read.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from search.config import Config
from search.ledger.metric import metrics_of
from search.ledger.paths import NO_TRIALS_INSIDE
from search.ledger.result import RESULT_FILE, TrialResult, read_result
from search.recipe import CHEAP_COSTS
from search.trial.measure import WARM_UP
from search.trial.train import Halted, evaluate
from search.trial.untrained import facts_for_admission, prepare_cached

__all__ = [
    "Noise",
    "costs_of",
    "device_kind",
    "earlier_runs",
    "judged_costs",
    "measured_seconds",
    "noise_of",
    "seconds_of",
]

CPU = "cpu"
STEPS = 8  # that are timed, after the first, which warms up
MOST_SECONDS = 10.0  # of timing a network, one warm and one timed step at the least


def judged_costs(config: Config, names: Iterable[str]) -> list[str]:
    """Those of `names` (costs that constraints may limit) that can be known without taking an accelerator.

    Latency and memory are those of the device that trials run on; parameters, MACs and scores are the same everywhere.
    """
    return [name for name in names if name not in CHEAP_COSTS or device_kind(config) == CPU]


def costs_of(config: Config, names: Iterable[str]) -> dict[str, float]:
    """Measure costs of a config's network on the CPU, as its trial would before training.

    Args:
        names: of `search.recipe.COSTS`, such as "params_fused", "latency_ms" or "zero_cost.naswot".

    Raises:
        ValueError: the config cannot run, or cannot tell such a cost.
    """
    torch.set_num_threads(config.threads)
    result = TrialResult(study="", trial=0, phase="final", status="ok", seed=config.seed)
    wanted = list(names)
    prepare_cached(config).add_costs(result, wanted)
    return facts_for_admission(result, wanted)


def device_kind(config: Config) -> str:
    """Where the trials of a config would run: "cpu", or the name of an accelerator, which is not touched."""
    if config.device != "auto":
        return config.device.partition(":")[0]
    return "cuda" if torch.cuda.is_available() else CPU


def measured_seconds(config: Config, steps: int = STEPS, most_seconds: float = MOST_SECONDS) -> float:
    """Seconds that one trial takes on a CPU that is as busy as now: training, validation and timing the network.

    A few steps are trained as a trial would train them, and one batch is scored; both are multiplied up. Reading the
    data, and the test images of a final trial, are not in it.

    Raises:
        ValueError: the config cannot run.
        RuntimeError: its training diverges at once.
    """
    torch.set_num_threads(config.threads)
    made = prepare_cached(config)
    loaders, few = made.loaders, list(itertools.islice(made.loaders.val, 1))
    stamps: list[float] = []

    def enough() -> bool:
        stamps.append(time.perf_counter())
        return len(stamps) > steps + 1 or (len(stamps) > 2 and stamps[-1] - stamps[0] > most_seconds)

    trainer = made.trainer(halt=enough, val=few)
    try:
        for _ in trainer.epochs():
            pass
    except Halted:
        pass
    taken = [later - earlier for earlier, later in itertools.pairwise(stamps)]
    step = statistics.median(taken[1:] or taken or [0.0])
    start = time.perf_counter()
    evaluate(made.model, few, made.evaluator("val"), amp=config.train.amp)
    image = (time.perf_counter() - start) / len(few[0][1])
    timed = 2 * (WARM_UP + config.measure.latency_repeats) * config.measure.latency_batch
    scored = config.train.epochs * loaders.val.samples + (timed if config.measure.latency_repeats else 0)
    return config.train.epochs * len(loaders.train) * step + scored * image


def earlier_runs(runs_root: Path, recipe: str, on_cpu: bool) -> list[TrialResult]:
    """Finished trials below `runs_root` of that recipe hash, trained (not reused) on a CPU, or not on a CPU."""
    found = []
    for path in sorted(runs_root.glob(f"*/*/*/{RESULT_FILE}")):
        if NO_TRIALS_INSIDE.intersection(path.relative_to(runs_root).parts):
            continue
        try:
            result = read_result(path)
        except ValueError:
            continue  # torn or foreign: it can tell nothing
        if (
            result.status == "ok"
            and result.recipe_hash == recipe
            and result.reused_from is None
            and result.epochs == result.epochs_planned
            and (result.provenance.get("device") == CPU) == on_cpu
        ):
            found.append(result)
    return found


def seconds_of(runs: Iterable[TrialResult]) -> dict[str, float]:
    """Median seconds of a trial by architecture hash, from the first line of its record to the last."""
    taken: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        seconds = _wall(run)
        if seconds is not None and run.arch_hash is not None:
            taken[run.arch_hash].append(seconds)
    return {arch: statistics.median(values) for arch, values in taken.items()}


@dataclass(frozen=True)
class Noise:
    """How much a paired difference to the baseline varies over seeds, pooled over arms.

    Attributes:
        sd: in points of `metric`.
        degrees: degrees of freedom behind it.
    """

    sd: float
    degrees: int
    metric: str


def noise_of(runs: Sequence[TrialResult], baseline: str | None) -> Noise | None:
    """The pooled sd of paired differences in earlier runs; None where no arm shares two seeds with the baseline.

    Args:
        runs: of one recipe.
        baseline: architecture hash of the baseline.
    """
    judged_by = metrics_of(runs[0].task)[0].columns if runs else ()
    for metric in (column.column for column in judged_by):  # of test data first
        values: dict[str | None, dict[int, float]] = defaultdict(dict)
        for run in runs:
            value = run.value(metric)
            if value is not None:
                values[run.arch_hash].setdefault(run.seed, value)
        base = values.get(baseline, {})
        squares, degrees = 0.0, 0
        for arch, by_seed in values.items():
            shared = sorted(set(by_seed) & set(base))
            if arch != baseline and len(shared) > 1:
                squares += (len(shared) - 1) * statistics.variance(by_seed[seed] - base[seed] for seed in shared)
                degrees += len(shared) - 1
        if degrees and squares > 0:
            return Noise((squares / degrees) ** 0.5, degrees, metric)
    return None


def _wall(run: TrialResult) -> float | None:
    if run.attempt == 1 and run.started_at and run.finished_at:
        try:
            return (datetime.fromisoformat(run.finished_at) - datetime.fromisoformat(run.started_at)).total_seconds()
        except ValueError:
            return run.train_seconds
    return run.train_seconds
