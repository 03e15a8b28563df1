"""What a number of seeds can tell, and how many would tell more: said of the undecided rows of a table."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from search.report.judging import POWER, Judging
from search.report.metrics import Metric
from search.report.statistics.power import MAX_SEEDS
from search.report.words import counted, joined

__all__ = ["resolution"]

NAMED_ARMS = 4


def resolution(rows: list[Any], metric: Metric, digits: int, judging: Judging) -> list[str]:
    """Say which differences the seeds of undecided rows find, and how many seeds would settle them.

    Args:
        rows: undecided rows of an `AblationTable`.
        metric: what they measure.
        digits: digits after the point for differences.
        judging: how they were judged.
    """
    known = [row for row in rows if pd.notna(row.mdd)]
    if not known:
        return []
    smallest, largest = (rounded_up(bound(row.mdd for row in known), digits) for bound in (min, max))
    size = smallest if smallest == largest else f"{smallest} to {largest}"
    by_row = "" if smallest == largest else ", by the spread of the row"
    fewest, most = min(row.n_paired for row in known), max(row.n_paired for row in known)
    at = counted(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    said = [
        f"With the spread that was measured, {at} find a true difference of {size} {metric.unit} with a power of "
        f"{POWER:.0%}{by_row}."
    ]
    if judging.margin is None:
        what = "To find a true difference of the size measured"
    else:
        what = f"To find a true difference of {judging.margin:g} {metric.unit}"
    return [*said, f"{what} with that power takes {settled(known)}."]


def settled(rows: list[Any]) -> str:
    """Say how many seeds each of a few rows needs, or the range over many."""
    if len(rows) <= NAMED_ARMS:
        return joined([f"{seeds(row)} for {row.arm}" for row in rows])
    ordered = sorted(rows, key=lambda row: MAX_SEEDS + 1 if pd.isna(row.seeds_needed) else row.seeds_needed)
    return f"from {seeds(ordered[0])} ({ordered[0].arm}) to {seeds(ordered[-1])} ({ordered[-1].arm})"


def seeds(row: Any) -> str:
    """Say how many seeds a row needs, rounded up to two significant digits."""
    if pd.isna(row.seeds_needed):
        return f"more than {MAX_SEEDS:,} seeds"
    unit = 10 ** max(len(str(row.seeds_needed)) - 2, 0)
    return f"about {math.ceil(row.seeds_needed / unit) * unit:,} seeds"


def rounded_up(value: float, digits: int) -> str:
    """Format a detectable difference; rounded up, so that the power said of it is reached."""
    scale = 10**digits
    return f"{math.ceil(round(value * scale, 6)) / scale:.{digits}f}"
