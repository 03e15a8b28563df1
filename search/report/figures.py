"""The figures of a table by its spec: means, differences, the marks they bear, and the legend that says what those mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from search.ledger.metric import LATENCIES, NOT_ALONE, NOT_ALONE_MEANS, MetricColumn
from search.report.arms import Arm, comparable
from search.report.conclusion import finds
from search.report.judging import Compared, Judging, compared, corrected_over, corrected_p_values, differences_to
from search.report.notes import HOW_TO_READ, change_notes, no_baseline, phase_notes, recipe_note, unreadable
from search.report.provenance import gate, odd_trials, provenance_of_arms, provenance_title
from search.report.spec import TableSpec, paper_table
from search.report.table import Cell
from search.report.values import arm_values
from search.report.words import counted, counted_range, decimals_for, interval_decimals, joined, scaled, signed
from search.stats.nested import NestedDifference
from search.stats.paired import ALPHA, CONFIDENCE, ArmValues

STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
SHOWN = {
    "mean_sd": "mean ± standard deviation over seeds",
    "mean": "mean over seeds",
    "diff": "difference to the baseline, paired by seed (the baseline's row: its mean)",
    "diff_interval": "difference to the baseline, paired by seed, with a 95% t interval of its own (not corrected for "
    "the number of rows; the baseline's row: its mean)",
}


@dataclass(frozen=True, kw_only=True)
class Figure(Compared):
    """One arm and metric, at full precision; sd and mean over the n seeds that finished are NaN where not defined.

    `missing` is what the others came to, e.g. "1 failed"; `stars` mark significance, e.g. "**", and "=" equivalence within the
    margin; `doubt` is "?" behind a latency that was not measured in an exclusive slot; `note` the letter of a footnote; `best`
    whether it is the best of its metric, or not to be told from it.
    """

    arm: Arm
    metric: MetricColumn
    n: int
    missing: str
    mean: float
    sd: float
    stars: str = ""
    doubt: str = ""
    note: str = ""
    best: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether a training failed on a seed that it or the baseline has, so that it is not marked."""
        return self.survived is not None and self.survived.lost > 0

    @property
    def interval(self) -> tuple[float, float] | None:
        """The t interval of its difference to the baseline, where there is one."""
        if self.result is None or self.result.low is None or self.result.high is None:
            return None
        return self.result.low, self.result.high


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row: its name, a figure (or None) for each column, and the texts of the published columns.

    A line that `spans` has one figure for each metric, for an arm that has no level of the columns' factor.
    """

    name: str
    is_baseline: bool
    spans: bool
    figures: list[Figure | None]
    paper: tuple[str, ...] = ()


def figures_of(arms: Sequence[Arm], metric: MetricColumn, reference: Arm | None, spec: TableSpec) -> list[Figure]:
    """Make the cells of one metric: means, differences, marks, and which are the best."""
    measured = arm_values(arms, metric.column)
    judging = Judging(correction=spec.correction, margin=spec.margin)  # type: ignore[arg-type]
    against = compared(arms, measured, None if metric.is_cost else reference, metric, judging)
    is_latency = metric.column in LATENCIES
    cells = []
    for arm, values, each, provenance in zip(
        arms, measured, against, provenance_of_arms(arms, metric.column), strict=True
    ):
        n = len(values.values)
        lost = [status for status in values.statuses if status != "ok"]
        without = "not measured in an exclusive slot" if is_latency else "without a value"
        lost += [without] * (values.statuses.count("ok") - n)
        figure = Figure(
            **vars(each),
            arm=arm,
            metric=metric,
            n=n,
            missing=", ".join(f"{lost.count(what)} {what}" for what in dict.fromkeys(lost)),
            mean=float(values.values.mean()) if n else math.nan,
            sd=float(values.values.std(ddof=1)) if n > 1 else math.nan,
            doubt=NOT_ALONE if is_latency and values.latency_exclusive is False else "",
            provenance=provenance,
        )
        cells.append(replace(figure, stars=_stars_of(each.facts) if spec.marks and not figure.failed else ""))
    best = _best_of(arms, measured, cells, metric, judging) if spec.bold == "best" else []
    return [replace(cell, best=position in best) for position, cell in enumerate(cells)]


def digits_of(cells: Sequence[Figure], metric: MetricColumn, digits: int | None) -> tuple[int, int]:
    """Digits after the point for the means and the differences of a metric, as their 95% intervals allow."""
    if digits is not None:
        return digits, digits
    if metric.is_cost:
        return metric.decimals, metric.decimals
    half = [
        float(stats.t.ppf((1 + CONFIDENCE) / 2, cell.n - 1)) * cell.sd / cell.n**0.5 for cell in cells if cell.n > 1
    ]
    widths = [(cell.interval[1] - cell.interval[0]) / 2 for cell in cells if cell.interval]
    return decimals_for(half, metric.decimals), decimals_for(widths, decimals_for(half, metric.decimals))


def _stars_of(fact: Mapping[str, Any]) -> str:
    p, same = fact["p_corrected"], fact["equivalence_p_corrected"]
    stars = "" if p is None else next((mark for limit, mark in STARS if p < limit), "")
    return ",".join(mark for mark in (stars, "=" if same is not None and same <= ALPHA else "") if mark)


def _best_of(
    arms: Sequence[Arm], measured: Sequence[ArmValues], cells: Sequence[Figure], metric: MetricColumn, judging: Judging
) -> list[int]:
    """Return the positions of the best mean and of all that cannot be told from it; a cost is compared as it is.

    An arm on whose seeds a training failed is none of them: the mean of its survivors flatters it. Nor is one that shares fewer
    than two seeds with the best, or was trained by another recipe.
    """
    means = [cell.mean if metric.higher_is_better else -cell.mean for cell in cells]
    if not metric.is_cost:
        means = [math.nan if len(arm.failed) else mean for arm, mean in zip(measured, means, strict=True)]
    if np.isnan(means).all():
        return []
    best = int(np.nanargmax(means))
    if metric.is_cost:
        return [position for position, mean in enumerate(means) if mean == means[best]]
    results = differences_to(arms[best], arms, measured)
    return [
        position
        for position, (result, p) in enumerate(
            zip(results, corrected_p_values(results, judging.correction), strict=True)
        )
        if position == best
        or (
            result is not None
            and not len(measured[position].failed)
            and (p >= ALPHA or (result.n > 1 and result.mean == 0))
        )
    ]


def cell_of(each: Figure, spec: TableSpec, digits: int, finer: int) -> Cell:
    """Round the numbers of a figure; `finer` are the digits of a difference. Marks: stars, a latency in doubt, a footnote."""
    text, behind = rounded(each, spec, digits, finer)
    return Cell(
        text,
        behind,
        marks=",".join(part for part in (each.stars, each.doubt, each.note) if part),
        bold=each.best and each.n > 0,
        title=provenance_title(each.provenance),
        label=each.metric.title,
    )


def rounded(each: Figure, spec: TableSpec, digits: int, finer: int) -> tuple[str, str]:
    """Return the main figure as text, and what stands behind it ("" where nothing does)."""
    if not each.n:
        return "-", ""
    if each.metric.is_cost:
        return (f"{each.mean:.{digits}f}" if each.metric.decimals else scaled(each.mean)), ""
    if spec.show.startswith("diff") and each.result is not None:
        if each.result.mean is None:
            return "-", ""
        ends = [signed(end, finer) for end in each.interval or () if spec.show == "diff_interval"]
        return signed(each.result.mean, finer), f"[{', '.join(ends)}]" if ends else ""
    behind = f"± {each.sd:.{digits}f}" if spec.show == "mean_sd" and not math.isnan(each.sd) else ""
    return f"{each.mean:.{digits}f}", behind


def lettered(lines: Sequence[Line]) -> list[Line]:
    """Give a letter to each way in which seeds of a figure are missing."""
    ways = dict.fromkeys(each.missing for line in lines for each in line.figures if each and each.missing)
    letters = {way: chr(ord("a") + number) if number < 26 else f"n{number}" for number, way in enumerate(ways)}
    return [
        replace(line, figures=[each and replace(each, note=letters.get(each.missing, "")) for each in line.figures])
        for line in lines
    ]


def legend_of(
    lines: Sequence[Line],
    metrics: Sequence[MetricColumn],
    reference: Arm | None,
    spec: TableSpec,
    frame: pd.DataFrame,
    phase: str,
) -> list[str]:
    """Write the legend of a table; see `pivot_table` for what the arguments are."""
    cells = [cell for line in lines for cell in line.figures if cell is not None]
    judged = [metric for metric in metrics if not metric.is_cost]
    counts = [cell.n for cell in cells if cell.metric is metrics[0]]
    n = counted_range(min(counts, default=0), max(counts, default=0), "seed")
    arms = list({id(cell.arm): cell.arm for cell in cells}.values())
    said = [f"Shown: {SHOWN[spec.show]}; n = {n}."]
    said += [line for metric in judged[:1] for line in gate(arms, metric)]
    said += phase_notes(frame, phase) + change_notes(frame)
    first = [cell for cell in cells if judged and cell.metric is judged[0]]
    if judged and reference is None:
        said += no_baseline([cell.arm for cell in cells])
    elif judged and reference is not None:
        said += _marks_of(cells, first, judged, reference, spec) if spec.marks else []
        said += _power_of(cells, judged)
    if spec.bold == "best":
        said.append("Bold: the best mean, and every arm that cannot be told from it.")
    if any(cell.doubt for cell in cells):
        said.append(NOT_ALONE_MEANS)
    said += [f"{letter}: not averaged: {way}." for letter, way in {c.note: c.missing for c in cells if c.note}.items()]
    foreign = [cell.arm.label for cell in first if reference is not None and not comparable(cell.arm, reference)]
    if foreign:
        said.append(f"Trained by another recipe than the baseline, not compared: {joined(foreign)}.")
    said += recipe_note(arms) + odd_trials(arms)
    lost = int(((frame["phase"] == phase) & (frame["status"] == "unfinished")).sum())
    if lost:
        said.append(f"{counted(lost, 'trial')} left no result (killed, or still running).")
    said += _paper_notes(spec.published, lines) if spec.published else []
    return [*said, *unreadable(frame), HOW_TO_READ]


def _marks_of(
    cells: Sequence[Figure], first: Sequence[Figure], metrics: Sequence[MetricColumn], reference: Arm, spec: TableSpec
) -> list[str]:
    """Say what stars and equals signs mean; `first` are the figures of the first of the `metrics` that are judged."""
    words = corrected_over(spec.correction, sum(cell.result is not None for cell in first))  # type: ignore[arg-type]
    over_roots = any(isinstance(cell.result, NestedDifference) for cell in first)
    tests = "t tests of the roots' mean differences" if over_roots else "paired t tests"
    said = [f"* p < 0.05, ** p < 0.01, *** p < 0.001 against the baseline ({reference.label}): {tests}, {words}."]
    failed = list(dict.fromkeys(cell.arm.label for cell in cells if cell.failed))
    if failed:
        said.append(f"Not marked, since a training failed on some seeds: {joined(failed)}.")
    if spec.margin is not None:
        units = joined([metric.unit for metric in metrics])
        said.append(f"=: equivalent to the baseline within ±{spec.margin:g} ({units}), p corrected likewise.")
    return said


def _paper_notes(name: str, lines: Sequence[Line]) -> list[str]:
    paper = paper_table(name)
    source = f"Paper: {paper.source}. Its data and networks are not ours: the order is to be compared, not the size."
    shown = {line.paper for line in lines}
    unmatched = [row for row, texts in paper.rows.items() if texts not in shown]
    beside = f"Published rows that no row of ours stands for: {joined(unmatched)}."
    return [f"{source} {paper.note}".rstrip(), *([beside] if unmatched else [])]


def _power_of(cells: Sequence[Figure], metrics: Sequence[MetricColumn]) -> list[str]:
    said = []
    for metric in metrics:
        own = [cell for cell in cells if cell.metric is metric]
        digits = interval_decimals([cell.interval for cell in own if cell.interval], metric.decimals)
        undecided = [
            (cell.facts["mdd"], cell.result.n)
            for cell in own
            if cell.result and (cell.facts["p_corrected"] or 0) > ALPHA
        ]
        unit = next((cell.result.unit for cell in own if cell.result), "seed")
        said += [f"{metric.title}: " * (len(metrics) > 1) + found for found in finds(undecided, digits, metric, unit)]
    return said
