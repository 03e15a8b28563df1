"""What a table allows to be said, in one paragraph that is true whatever the table holds."""

from __future__ import annotations

from typing import Any

import pandas as pd

from search.report.judging import CORRECTIONS, Judging, within
from search.report.metrics import Metric
from search.report.resolution import resolution
from search.report.statistics.stats import AFTER_CORRECTION, ALPHA, BETTER, CONSTANT, EQUAL, UNDECIDED, WORSE
from search.report.words import counted, interval_decimals, joined, p_is, signed, significant

__all__ = ["conclusion"]

NAMED_ARMS = 4  # longer lists of arms are counted instead of named


def conclusion(data: pd.DataFrame, metric: Metric, phase: str, judging: Judging) -> str:
    """Say what the rows of an `AblationTable` allow to be said.

    Args:
        data: rows with the columns `DATA_COLUMNS`.
        metric: what the rows measure.
        phase: "final", "search" or "single".
        judging: how the rows were judged.
    """
    rows: list[Any] = list(data.itertuples(index=False))
    baselines = [row for row in rows if row.is_baseline]
    others = [row for row in rows if not row.is_baseline]
    if not any(row.n > 0 for row in rows):
        return f"No arm has a finished trial with {metric.column}: nothing can be compared."
    if not baselines:
        said = ["There is no single baseline row, so no difference is given and no arm is called better than another."]
    elif not others:
        said = [f"Only the baseline, {baselines[0].arm}, was measured: there is nothing to compare it with."]
    elif not baselines[0].n:
        said = [f"The baseline, {baselines[0].arm}, finished on no seed, so no difference can be given."]
    else:
        said = comparisons(str(baselines[0].arm), others, metric, judging)
    if phase == "search":
        said.append(
            "These are the numbers that chose the arms, not a re-evaluation on fresh seeds: the best look too good."
        )
    elif phase == "single":
        said.append("These are single runs, not a re-evaluation on fresh seeds.")
    return " ".join(said)


def comparisons(baseline: str, others: list[Any], metric: Metric, judging: Judging) -> list[str]:
    """Say, group by group, how the arms compare with the baseline."""
    said = []
    intervals = [(row.ci_low, row.ci_high) for row in others if pd.notna(row.ci_low)]
    digits = interval_decimals(intervals, metric.decimals)
    for words, kind in ((BETTER, "better"), (WORSE, "worse")):
        told = [row for row in others if pd.notna(row.verdict) and row.verdict.startswith(words)]
        if told:
            be = "is" if len(told) == 1 else "are"
            said.append(f"{listed(told, metric, digits)} {be} {kind} than the baseline ({baseline}).")
    if said:
        said += assurance(len(intervals), judging)
    said += equivalents(baseline, others, metric, judging)
    lost = [row for row in others if row.verdict == AFTER_CORRECTION]
    if lost:
        said.append(lost_sentence(baseline, lost, len(intervals), metric, digits, judging))
    undecided = [row for row in others if row.verdict == UNDECIDED]
    if undecided:
        said.append(undecided_sentence(baseline, undecided, len(undecided) == len(others), metric, digits))
    said += resolution([*lost, *undecided], metric, digits, judging)
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
    return said


def assurance(tested: int, judging: Judging) -> list[str]:
    """Say what error the findings of a table are held to."""
    if tested < 2:
        return []
    if judging.correction == "none":
        return [
            f"The p-values are not corrected: {tested} comparisons at {ALPHA:.0%} give {significant(ALPHA * tested, 2)} false findings on "
            "average where no arm differs."
        ]
    over = f"after correction over the {tested} comparisons by {CORRECTIONS[judging.correction]}"
    if judging.correction == "bh":
        return [f"This holds {over}: on average at most {ALPHA:.0%} of such findings are false."]
    return [f"This holds {over}: at most {ALPHA:.0%} of such tables hold any false finding."]


def lost_sentence(baseline: str, rows: list[Any], tested: int, metric: Metric, digits: int, judging: Judging) -> str:
    """Say of arms whose interval, taken alone, leaves out zero that they are no finding of this table."""
    its = "Its interval, taken alone, leaves" if len(rows) == 1 else "Their intervals, each taken alone, leave"
    p = ("" if len(rows) == 1 else "smallest ") + p_is(min(float(row.p_corrected) for row in rows))
    return (
        f"{listed(rows, metric, digits)} cannot be told from the baseline ({baseline}) after correction over the "
        f"{tested} comparisons by {CORRECTIONS[judging.correction]} ({p}). {its} out zero; "
        f"of {tested} such intervals {significant(ALPHA * tested, 2)} do so on average where no arm differs."
    )


def equivalents(baseline: str, others: list[Any], metric: Metric, judging: Judging) -> list[str]:
    """Say which arms were shown to be equivalent to the baseline, or that none was."""
    if judging.margin is None:
        return []
    margin = f"±{judging.margin:g} {metric.unit}"
    same = [
        row for row in others if pd.notna(row.verdict) and row.verdict.endswith(within(judging.margin, metric.unit))
    ]
    if not same:
        tested = any(pd.notna(row.equivalence_p) for row in others)
        return [f"No arm was shown to be equivalent to the baseline within {margin}."] if tested else []
    be = "is" if len(same) == 1 else "are"
    p = ("" if len(same) == 1 else "largest ") + ("" if judging.correction == "none" else "corrected ")
    p += p_is(max(float(row.equivalence_p_corrected) for row in same))
    return [
        f"{named([row.arm for row in same])} {be} equivalent to the baseline ({baseline}) within {margin} (two one-sided "
        f"t tests, {p})."
    ]


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


def listed(rows: list[Any], metric: Metric, digits: int) -> str:
    """Name a few arms with their differences; count the rest of many."""
    told = [f"{row.arm} ({amount(row, metric, digits)})" for row in rows]
    if len(told) > NAMED_ARMS:
        told[NAMED_ARMS:] = [f"{len(told) - NAMED_ARMS} more"]
    return joined(told)


def named(arms: list[str]) -> str:
    """Name a few arms; count many."""
    return joined(arms) if len(arms) <= NAMED_ARMS else f"{len(arms)} arms"
