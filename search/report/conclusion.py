"""What a table allows to be said, in one paragraph that is true whatever the table holds; what its seeds can tell, and how many would."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from search.ledger.metric import MetricColumn
from search.report.judging import POWER, Judging, within
from search.report.notes import changes_of
from search.report.starts import estimand, is_continued
from search.report.values import GIVEN, Reading, has_looks
from search.report.words import counted, counted_range, interval_decimals, joined, p_is, signed, significant, span
from search.stats import paired
from search.stats.inference import MAX_SEEDS

SOURCES = {
    "final with looks": "test images, the networks of the looks",
    "search": "search phase",
    "search with looks": "validation images, as the looks read them",
    "single": "single runs",
    GIVEN: "runs as they were given",
}
FRESH = "final re-evaluation on fresh seeds"
NO_SPREAD = tuple(
    words.replace("seed", unit) for words in (paired.EQUAL, paired.CONSTANT) for unit in ("seed", "root")
)  # the first two are equal
NAMED_ARMS = 4  # longer lists of arms are counted instead of named


def conclusion(data: pd.DataFrame, metric: MetricColumn, phase: str, judging: Judging) -> str:
    """Say what the rows of an `AblationTable`, `data`, allow to be said.

    `phase` is "final", "search" or "single"; of a design with looks "final with looks" or "search with looks".
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
        said = _comparisons(str(baselines[0].arm), others, metric, judging)
    if phase == "search":
        said.append(
            "These are the numbers that chose the arms, not a re-evaluation on fresh seeds: the best look too good."
        )
    elif phase == "single":
        said.append("These are single runs, not a re-evaluation on fresh seeds.")
    return " ".join(said)


def _comparisons(baseline: str, others: list[Any], metric: MetricColumn, judging: Judging) -> list[str]:
    said = []
    intervals = [(row.ci_low, row.ci_high) for row in others if pd.notna(row.ci_low)]
    digits = interval_decimals(intervals, metric.decimals)
    for words, kind in ((paired.BETTER, "better"), (paired.WORSE, "worse")):
        told = _starting(words, others)
        if told:
            be = "is" if len(told) == 1 else "are"
            said.append(f"{_listed(told, metric, digits)} {be} {kind} than the baseline ({baseline}).")
    survivors = _starting(paired.AHEAD, others) + _starting(paired.BEHIND, others)
    said += [_survivor_sentence(baseline, row, metric, digits) for row in survivors]
    found = _starting(paired.BETTER, others) + _starting(paired.WORSE, others) + survivors
    if found and judging.correction == "none" and len(intervals) > 1:
        said.append(
            f"The p-values are not corrected: {len(intervals)} comparisons at {paired.ALPHA:.0%} give "
            f"{significant(paired.ALPHA * len(intervals), 2)} false findings on average where no arm differs."
        )
    said += _exaggeration_sentence(found)
    said += _equivalents(baseline, others, metric, judging)
    lost = _starting(paired.AFTER_CORRECTION, others)
    if lost:
        alone = "its interval, taken alone, leaves" if len(lost) == 1 else "their intervals, each taken alone, leave"
        said.append(
            f"{_listed(lost, metric, digits)} cannot be told from the baseline ({baseline}) after correction, though {alone} out "
            "zero."
        )
    undecided = _starting(paired.UNDECIDED, others)
    if undecided:
        every = len(undecided) == len(others) > 1
        who = f"None of the {len(others)} arms can" if every else f"{_named([row.arm for row in undecided])} cannot"
        said.append(f"{who} be told from the baseline ({baseline}).")
    said += resolution([*lost, *undecided], metric, digits, judging)
    for row in (row for row in others if _starting(NO_SPREAD, [row])):
        number, unit = judged_by(row)
        each = f"on each of {counted(number, f'shared {unit}')}"
        if row.verdict.startswith(NO_SPREAD[:2]):
            said.append(f"{row.arm} equals the baseline {each}.")
        else:
            by = f"{signed(row.diff, metric.decimals)} {metric.unit}"
            said.append(f"{row.arm} differs from the baseline by {by} {each}: that leaves no spread to judge it by.")
    few = [row.arm for row in others if pd.notna(row.n_paired) and judged_by(row)[0] < 2]
    if few:
        share = f"share{'s' * (len(few) == 1)} fewer than two finished {judged_by(others[0])[1]}s with the baseline ({baseline})"
        said.append(f"Nothing can be said about {_named(few)}, which {share}.")
    foreign = [row.arm for row in others if pd.isna(row.n_paired)]
    if foreign:
        were = "was" if len(foreign) == 1 else "were"
        said.append(f"{_named(foreign)} {were} trained by another recipe than the baseline: not compared.")
    return said


def _starting(words: str | tuple[str, ...], rows: list[Any]) -> list[Any]:
    return [row for row in rows if pd.notna(row.verdict) and row.verdict.startswith(words)]


def _survivor_sentence(baseline: str, row: Any, metric: MetricColumn, digits: int) -> str:
    words, _, on_which = str(row.verdict).partition(" on the ")
    kind = "better" if words.startswith(paired.AHEAD) else "worse"
    said = (
        f"{row.arm} ({_amount(row, metric, digits)}) is {words.replace('the baseline', f'the baseline ({baseline})')} on the "
        f"{on_which}, which does not make it {kind}"
    )
    if pd.isna(row.worst_diff):
        return f"{said}."
    return f"{said}: with a failed seed counted as {metric.worst:g} %, the difference is {signed(row.worst_diff, digits)} {metric.unit}."


def _exaggeration_sentence(found: list[Any]) -> list[str]:
    low = [row for row in found if pd.notna(row.power) and row.power < POWER]
    if not low:
        return []
    chance, factor = span((row.power for row in low), ".0%"), span((row.exaggeration for row in low), ".1f")
    return [
        f"Power is low for {_named([row.arm for row in low])}: were the true difference as large as measured, {chance} of such "
        f"studies would find it, on average {factor} times too large; a smaller one, more so."
    ]


def _equivalents(baseline: str, others: list[Any], metric: MetricColumn, judging: Judging) -> list[str]:
    """Say which arms were shown to be equivalent to the baseline, or that none was."""
    if judging.margin is None:
        return []
    margin = f"±{judging.margin:g} {metric.unit}"
    same = [row for row in others if pd.notna(row.verdict) and within(judging.margin, metric.unit) in row.verdict]
    if not same:
        tested = any(pd.notna(row.equivalence_p) for row in others)
        return [f"No arm was shown to be equivalent to the baseline within {margin}."] if tested else []
    be = "is" if len(same) == 1 else "are"
    p = ("" if len(same) == 1 else "largest ") + ("" if judging.correction == "none" else "corrected ")
    p += p_is(max(float(row.equivalence_p_corrected) for row in same))
    return [
        f"{_named([row.arm for row in same])} {be} equivalent to the baseline ({baseline}) within {margin} (two one-sided "
        f"t tests, {p})."
    ]


def _amount(row: Any, metric: MetricColumn, digits: int) -> str:
    value = f"{signed(row.diff, digits)} {metric.unit}"
    interval = f"95% interval {signed(row.ci_low, digits)} to {signed(row.ci_high, digits)}"
    return f"{value}, {interval}, {counted(*judged_by(row))}"


def judged_by(row: Any) -> tuple[int, str]:
    """Return how many values a row's difference is the mean of, and what each belongs to: a seed, or a root."""
    roots = getattr(row, "roots", pd.NA)
    return (int(row.n_paired), "seed") if pd.isna(roots) else (int(roots), "root")


def _listed(rows: list[Any], metric: MetricColumn, digits: int) -> str:
    """Name a few arms with their differences; count the rest of many."""
    told = [f"{row.arm} ({_amount(row, metric, digits)})" for row in rows]
    if len(told) > NAMED_ARMS:
        told[NAMED_ARMS:] = [f"{len(told) - NAMED_ARMS} more"]
    return joined(told)


def _named(arms: list[str]) -> str:
    return joined(arms) if len(arms) <= NAMED_ARMS else f"{len(arms)} arms"


def resolution(rows: list[Any], metric: MetricColumn, digits: int, judging: Judging) -> list[str]:
    """Say which differences the seeds of undecided rows find, and where a margin is given how many would find it."""
    known = [row for row in rows if pd.notna(row.mdd)]
    unit = judged_by(known[0])[1] if known else "seed"
    said = finds([(row.mdd, judged_by(row)[0]) for row in known], digits, metric, unit)
    if known and judging.margin is not None:
        said.append(
            f"To find {judging.margin:g} {metric.unit} with that power takes {settled(known)} (95% interval, by that of the spread)."
        )
    return said


def finds(rows: Sequence[tuple[float, int]], digits: int, metric: MetricColumn, unit: str = "seed") -> list[str]:
    """Say which true differences some rows find, each given by its smallest one and its seeds or roots; nothing where there is no row."""
    if not rows:
        return []
    smallest, largest = (rounded_up(bound(size for size, _ in rows), digits) for bound in (min, max))
    pairs = [seeds for _, seeds in rows]
    at = counted_range(min(pairs), max(pairs), unit)
    size = smallest if smallest == largest else f"{smallest} to {largest}"
    return [f"By the spread measured, {at} find a true difference of {size} {metric.unit} with a power of {POWER:.0%}."]


def settled(rows: list[Any]) -> str:
    """Say how many seeds each of a few rows needs, or the range over many."""
    if len(rows) <= NAMED_ARMS:
        return joined([f"{seeds(row)} for {row.arm}" for row in rows])
    ordered = sorted(rows, key=lambda row: MAX_SEEDS + 1 if pd.isna(row.seeds_needed) else row.seeds_needed)
    return f"from {seeds(ordered[0])} ({ordered[0].arm}) to {seeds(ordered[-1])} ({ordered[-1].arm})"


def seeds(row: Any) -> str:
    """Say how many seeds or roots a row needs, with the interval of that number."""
    return f"{rounded(row.seeds_needed)} ({rounded(row.seeds_low)} to {rounded(row.seeds_high)}) {judged_by(row)[1]}s"


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


def titled(read: Reading, source: str) -> str:
    """Say, for a title, what the differences are of where arms went on from trained networks, and which trials were read."""
    said = source_of(read, source)
    if not is_continued(read):
        return said
    return estimand(read) if said == FRESH else f"{estimand(read)}; {said}"


def source_of(read: Reading, source: str) -> str:
    """Say which trials were read. Of seeds that another study has shown the test scores are not fresh."""
    if source != "final":
        return SOURCES[source]
    ok = read.trials[read.trials["status"] == "ok"]
    own = {*read.trials["study"].dropna(), Path(str(read.frame.attrs.get("path", "."))).name}
    sources = [str(folder).rsplit("/", 2)[0] for folder in ok["reused_from"].dropna()]
    others = [study for study in sources if study not in own]
    if not others:
        return FRESH
    return f"final re-evaluation, {len(others)} of {len(ok)} results taken over from {joined(sorted(set(others)))}"


def looked(frame: pd.DataFrame, phase: str) -> list[str]:
    """Say where seeds were added after looking, since the p-values of this table reckon with one look."""
    if phase != "single" and has_looks(frame):
        return [
            "Seeds were added to undecided rows after looking at their results, which the p-values here do not reckon with: "
            "what may be claimed stands in the table of the looks."
        ]
    if phase == "final" and seeds_added(frame):
        return ["Seeds were added when final results stood, which the p-values do not reckon with."]
    return []


def seeds_added(frame: pd.DataFrame) -> bool:
    """Tell whether a command of the study asked for more final seeds when final results stood, without planned looks."""
    return not has_looks(frame) and any(change.seeds_added for change in changes_of(frame))
