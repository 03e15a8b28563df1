"""The numbers behind each arm, as arrays: thousands of arms are read at once where a data frame each would be slow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from search.report.arms import Arm
from search.report.metrics import LATENCIES

__all__ = ["ArmValues", "arm_values", "floats", "geometric_mean"]


@dataclass(frozen=True, kw_only=True)
class ArmValues:
    """What a table needs of one arm.

    Attributes:
        values: the metric of the finished trials, float64 (n,), sorted by seed.
        seeds: their seeds, int64 (n,).
        failed: seeds on which it diverged, failed, was pruned or came to no finite value, int64, sorted.
        all_seeds: seeds of all its trials, finished or not, int64.
        statuses: how those ended.
        params, macs: of the first trial that has them.
        dose: geometric mean over the finished trials; None where none has one.
        latency_ms, latency_fused_ms: medians over the finished trials, milliseconds; None where none was measured. Where
            some were measured in an exclusive slot, those alone count.
        latency_exclusive: whether they were; None where no latency was measured.
    """

    values: np.ndarray
    seeds: np.ndarray
    failed: np.ndarray
    all_seeds: np.ndarray
    statuses: list[str]
    params: int | None
    macs: int | None
    dose: float | None = None
    latency_ms: float | None
    latency_fused_ms: float | None
    latency_exclusive: bool | None


def arm_values(arms: Sequence[Arm], metric: str) -> list[ArmValues]:
    """Read the numbers of each arm; `metric` is a numeric column of the frame the arms were made of."""
    if not arms:
        return []
    cells = arms[0].all_cells
    status = cells["status"].to_numpy(dtype=object)
    ok = status == "ok"
    seeds = cells["seed"].to_numpy(dtype="int64")
    numbers = {name: floats(cells[name]) for name in (metric, "dose", *LATENCIES)}
    counts = {name: cells[name].tolist() for name in ("params", "macs")}
    measured = ok & np.isfinite(numbers[metric])
    failed = (status == "failed") | (status == "pruned") | (ok & ~measured)
    timed = ok & (np.isfinite(numbers["latency_ms"]) | np.isfinite(numbers["latency_fused_ms"]))
    alone = timed & cells["latency_exclusive"].to_numpy(dtype=bool, na_value=False)
    found = []
    for arm in arms:
        here = slice(arm.start, arm.stop)
        exclusive = bool(alone[here].any())
        counted = alone[here] if exclusive else ok[here]
        keep = measured[here] & counted if metric in LATENCIES else measured[here]
        found.append(
            ArmValues(
                values=numbers[metric][here][keep],
                seeds=seeds[here][keep],
                failed=seeds[here][failed[here]],
                all_seeds=seeds[here],
                statuses=status[here].tolist(),
                params=next((int(value) for value in counts["params"][here] if pd.notna(value)), None),
                macs=next((int(value) for value in counts["macs"][here] if pd.notna(value)), None),
                dose=geometric_mean(numbers["dose"][here][ok[here]]),
                latency_ms=median(numbers["latency_ms"][here][counted]),
                latency_fused_ms=median(numbers["latency_fused_ms"][here][counted]),
                latency_exclusive=exclusive if timed[here].any() else None,
            )
        )
    return found


def floats(column: pd.Series[float]) -> np.ndarray:
    """Return a column as float64, NaN where it is NA."""
    return column.to_numpy(dtype="float64", na_value=np.nan)


def geometric_mean(values: np.ndarray) -> float | None:
    """Return the geometric mean of the values that are there, none of them negative, or None."""
    there = values[~np.isnan(values)]
    if len(there) == 0:
        return None
    return float(np.exp(np.log(there).mean())) if there.min() > 0 else 0.0


def median(values: np.ndarray) -> float | None:
    """Return the median of the values that are there, or None."""
    there = values[~np.isnan(values)]
    if len(there) == 0:
        return None
    there.sort()  # np.median costs ten times as much on a handful of values
    half = len(there) // 2
    return float(there[half] if len(there) % 2 else (there[half - 1] + there[half]) / 2)
