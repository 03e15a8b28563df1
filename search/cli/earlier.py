"""What earlier runs of a recipe tell a plan: how long a trial takes, and how much a paired difference varies over seeds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from search.ledger.metric import metrics_of
from search.ledger.paths import NO_TRIALS_INSIDE
from search.ledger.result import RESULT_FILE, TrialResult, read_result


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
            and (result.provenance.get("device") == "cpu") == on_cpu
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
