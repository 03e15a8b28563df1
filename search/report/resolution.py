"""What a number of seeds can tell, and how many would tell a margin: said of the undecided rows of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from search.ledger.metric import MetricColumn
from search.report.judging import POWER, Judging
from search.report.words import counted, joined
from search.stats.power import MAX_SEEDS

__all__ = ["finds", "resolution", "rounded_up"]

NAMED_ARMS = 4


def resolution(rows: list[Any], metric: MetricColumn, digits: int, judging: Judging) -> list[str]:
    """Say which differences the seeds of undecided rows find, and where a margin is given how many would find it.

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
    said = [finds(smallest, largest, [row.n_paired for row in known], metric)]
    if judging.margin is not None:
        said.append(
            f"To find {judging.margin:g} {metric.unit} with that power takes {settled(known)} (95% interval, by that of the spread)."
        )
    return said


def finds(smallest: str, largest: str, pairs: Sequence[int], metric: MetricColumn) -> str:
    """Say which true differences the seeds of some rows find, from the smallest to the largest of the rows' own."""
    size = smallest if smallest == largest else f"{smallest} to {largest}"
    fewest, most = min(pairs), max(pairs)
    at = counted(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    return f"By the spread measured, {at} find a true difference of {size} {metric.unit} with a power of {POWER:.0%}."


def settled(rows: list[Any]) -> str:
    """Say how many seeds each of a few rows needs, or the range over many."""
    if len(rows) <= NAMED_ARMS:
        return joined([f"{seeds(row)} for {row.arm}" for row in rows])
    ordered = sorted(rows, key=lambda row: MAX_SEEDS + 1 if pd.isna(row.seeds_needed) else row.seeds_needed)
    return f"from {seeds(ordered[0])} ({ordered[0].arm}) to {seeds(ordered[-1])} ({ordered[-1].arm})"


def seeds(row: Any) -> str:
    """Say how many seeds a row needs, with the interval of that number."""
    return f"{rounded(row.seeds_needed)} ({rounded(row.seeds_low)} to {rounded(row.seeds_high)}) seeds"


def rounded(number: Any) -> str:
    """Format a number of seeds, rounded up to two significant digits."""
    if pd.isna(number):
        return f"more than {MAX_SEEDS:,}"
    unit = 10 ** max(len(str(number)) - 2, 0)
    return f"{math.ceil(number / unit) * unit:,}"


def rounded_up(value: float, digits: int) -> str:
    """Format a detectable difference; rounded up, so that the power said of it is reached."""
    scale = 10**digits
    return f"{math.ceil(round(value * scale, 6)) / scale:.{digits}f}"
