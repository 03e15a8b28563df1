"""What a table allows to be said, in one paragraph that is true whatever the table holds."""

from __future__ import annotations

from typing import Any

import pandas as pd

from search.report.metrics import Metric
from search.report.stats import BETTER, CONSTANT, EQUAL, UNDECIDED, WORSE
from search.report.words import counted, interval_decimals, joined, signed

__all__ = ["conclusion"]

NAMED_ARMS = 4  # longer lists of arms are counted instead of named


def conclusion(data: pd.DataFrame, metric: Metric, phase: str) -> str:
    """Say what the rows of an `AblationTable` allow to be said.

    Args:
        data: rows with the columns `DATA_COLUMNS`.
        metric: what the rows measure.
        phase: "final", "search" or "single".
    """
    baselines = [row for row in data.itertuples(index=False) if row.is_baseline]
    others = [row for row in data.itertuples(index=False) if not row.is_baseline]
    if not (data["n"] > 0).any():
        return f"No arm has a finished trial with {metric.column}: nothing can be compared."
    if not baselines:
        said = ["There is no single baseline row, so no difference is given and no arm is called better than another."]
    elif not others:
        said = [f"Only the baseline, {baselines[0].arm}, was measured: there is nothing to compare it with."]
    elif not baselines[0].n:
        said = [f"The baseline, {baselines[0].arm}, finished on no seed, so no difference can be given."]
    else:
        said = comparisons(str(baselines[0].arm), others, metric)
    if phase == "search":
        said.append(
            "These are the numbers that chose the arms, not a re-evaluation on fresh seeds: the best look too good."
        )
    elif phase == "single":
        said.append("These are single runs, not a re-evaluation on fresh seeds.")
    return " ".join(said)


def comparisons(baseline: str, others: list[Any], metric: Metric) -> list[str]:
    """Say, group by group, how the arms compare with the baseline."""
    said = []
    intervals = [(row.ci_low, row.ci_high) for row in others if pd.notna(row.ci_low)]
    digits = interval_decimals(intervals, metric.decimals)
    for words, kind in ((BETTER, "better"), (WORSE, "worse")):
        told = [f"{row.arm} ({amount(row, metric, digits)})" for row in others if row.verdict == words]
        if told:
            if len(told) > NAMED_ARMS:
                told[NAMED_ARMS:] = [f"{len(told) - NAMED_ARMS} more"]
            be = "is" if len(told) == 1 else "are"
            said.append(f"{joined(told)} {be} {kind} than the baseline ({baseline}).")
    decided = len(said)
    undecided = [row for row in others if row.verdict == UNDECIDED]
    if undecided:
        said.append(undecided_sentence(baseline, undecided, len(undecided) == len(others), metric, digits))
    for row in others:
        if row.verdict == EQUAL:
            said.append(f"{row.arm} equals the baseline on each of {counted(row.n_paired, 'shared seed')}.")
        elif row.verdict == CONSTANT:
            said.append(
                f"{row.arm} differs from the baseline by {signed(row.diff, metric.decimals)} {metric.unit} on each of "
                f"{counted(row.n_paired, 'shared seed')}: that leaves no spread to judge it by."
            )
    few = [row.arm for row in others if pd.notna(row.n_paired) and row.n_paired < 2]
    if few:
        verb = "shares" if len(few) == 1 else "share"
        said.append(
            f"Nothing can be said about {named(few)}, which {verb} fewer than two finished seeds with the baseline "
            f"({baseline})."
        )
    foreign = [row.arm for row in others if pd.isna(row.n_paired)]
    if foreign:
        verb = "was" if len(foreign) == 1 else "were"
        said.append(f"{named(foreign)} {verb} trained by another recipe than the baseline: not compared.")
    tested = len(intervals)
    if tested > 1 and decided:
        said.append(
            f"Without correction, {tested} comparisons at 95% give {0.05 * tested:.2g} false findings on average where "
            "no arm differs."
        )
    return said


def undecided_sentence(baseline: str, rows: list[Any], are_all: bool, metric: Metric, digits: int) -> str:
    """Say that arms cannot be told from the baseline, and how far apart they may still be."""
    largest = max(rows, key=lambda row: abs(row.diff))
    fewest, most = min(row.n_paired for row in rows), max(row.n_paired for row in rows)
    at = counted(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    if len(rows) == 1:
        return (
            f"{largest.arm} cannot be told from the baseline ({baseline}) at {at}: the difference is "
            f"{amount(largest, metric, digits, seeds=False)}; that does not show that they are equal."
        )
    who = f"None of the {len(rows)} arms can" if are_all else f"{named([row.arm for row in rows])} cannot"
    return (
        f"{who} be told from the baseline ({baseline}) at {at}: the largest difference is {largest.arm} with "
        f"{amount(largest, metric, digits, seeds=False)}; that does not show that they are equal."
    )


def amount(row: Any, metric: Metric, digits: int, seeds: bool = True) -> str:
    """Format a difference with its unit and interval."""
    value = f"{signed(row.diff, digits)} {metric.unit}"
    interval = f"95% interval {signed(row.ci_low, digits)} to {signed(row.ci_high, digits)}"
    return f"{value}, {interval}, {counted(row.n_paired, 'seed')}" if seeds else f"{value} ({interval})"


def named(arms: list[str]) -> str:
    """Name a few arms; count many."""
    return joined(arms) if len(arms) <= NAMED_ARMS else f"{len(arms)} arms"
