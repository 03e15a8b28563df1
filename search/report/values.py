"""The numbers behind each arm, as arrays: thousands of arms are read at once where a data frame each would be slow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from search.ledger.metric import LATENCIES
from search.report.arms import Arm, comparable, find_arm, list_arms
from search.report.declared import declared_by
from search.stats.paired import ArmValues, PairedDifference, difference

__all__ = ["arm_values", "floats", "geometric_mean", "paired_difference"]


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


def paired_difference(frame: pd.DataFrame, arm: str, baseline: str, metric: str) -> PairedDifference:
    """Compare an arm with the baseline on the seeds that both finished (status ok), each seed once.

    Args:
        frame: rows of `load_study`, all of one phase.
        arm: name or architecture hash of the arm.
        baseline: name or architecture hash of what it is compared with.
        metric: a numeric column, e.g. "test_top1".

    Raises:
        ValueError: unknown arm, baseline or column; a frame of several phases; arms trained by different recipes.
    """
    if metric not in frame.columns:
        raise ValueError(f"metric '{metric}' is no column of the frame; columns: {', '.join(frame.columns)}")
    arms = list_arms(frame, declared_by(frame))
    one, other = find_arm(arms, arm), find_arm(arms, baseline)
    if not comparable(one, other):
        raise ValueError(
            f"'{one.label}' was trained by recipe {one.recipe_hash} and '{other.label}' by {other.recipe_hash}: a "
            "difference would mix the two causes; compare arms of one recipe"
        )
    return difference(one.values(metric), other.values(metric))


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
