"""A table as its spec asks for it: cells in rows and columns, with marks, and a legend that says what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
from scipy import stats

from search.ledger.metric import LATENCIES, NOT_ALONE, MetricColumn, column_named
from search.report.arms import Arm, find_arm, list_arms
from search.report.chosen import marked_baseline, metric_to_read, phase_to_read
from search.report.declared import declared_by
from search.report.effects.factors import levels
from search.report.grid.legend import footnotes, legend_of
from search.report.grid.marks import Compare, best_of, compared, stars_of
from search.report.judging import JUDGED, Judging, judged
from search.report.paper import PaperTable, paper_table
from search.report.sources import all_sources
from search.report.spec import TableSpec
from search.report.values import arm_values
from search.report.words import decimals_for
from search.stats.paired import CONFIDENCE, PairedDifference, differences, survivors

__all__ = ["Cell", "Grid", "GridRow", "make_grid"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm and metric, at full precision.

    Attributes:
        n: seeds that finished. missing: what the others came to, e.g. "1 failed"; "" where none is missing.
        mean, sd: over those seeds; NaN where not defined.
        result: the paired difference to the baseline; None for the baseline, and where none may be taken.
        p_corrected: its p-value, corrected over the table; NaN where there is none.
        facts: effect size, power and equivalence, by the names of `JUDGED`; None where not asked for, or not defined.
        stars: significance, e.g. "**", and "=" where it is equivalent to the baseline within the margin.
        doubt: "?" behind a latency that was not measured in an exclusive slot, or "".
        note: letter of a footnote, or "".
        failed: whether a training failed on a seed that it or the baseline has, so that it is not marked.
        best: the best of its metric, or not to be told from it.
        sources: see `all_sources`.
    """

    arm: Arm
    metric: MetricColumn
    n: int
    missing: str
    mean: float
    sd: float
    result: PairedDifference | None = None
    p_corrected: float = float("nan")
    facts: Mapping[str, Any] = field(default_factory=lambda: dict.fromkeys(JUDGED))
    stars: str = ""
    doubt: str = ""
    note: str = ""
    failed: bool = False
    best: bool = False
    sources: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """One row: its name, a cell (or None) for each column, and the texts of the published columns.

    A row that `spans` has one cell for each metric, for an arm that has no level of the columns' factor.
    """

    name: str
    is_baseline: bool
    spans: bool
    cells: list[Cell | None]
    paper: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table as its spec asks for it.

    Attributes:
        title: caption. corner: heading of the rows' names.
        groups: levels of the columns' factor; one empty text where there is none.
        metrics: metrics inside each group. A row's cells are those of the first group, then the second, ...
        digits: digits after the point for each metric: (of means, of differences).
        paper: headings of the published columns, after ours.
        legend: sentences under the table.
    """

    spec: TableSpec
    title: str
    corner: str
    groups: list[str]
    metrics: list[MetricColumn]
    digits: dict[str, tuple[int, int]]
    rows: list[GridRow]
    paper: tuple[str, ...]
    legend: list[str]

    @property
    def cells(self) -> list[tuple[GridRow, str, Cell]]:
        """Every cell there is, with its row and the level of its column ("" where it has none)."""
        wide = [group for group in self.groups for _ in self.metrics]
        return [
            (row, "" if row.spans else group, cell)
            for row in self.rows
            for group, cell in zip([""] * len(row.cells) if row.spans else wide, row.cells, strict=True)
            if cell is not None
        ]


def make_grid(frame: pd.DataFrame, spec: TableSpec, compare: Compare = differences) -> Grid:
    """Make the table that a spec asks for.

    Args:
        frame: rows of `load_study`, or of `load_pooled`.
        spec: what to show.
        compare: gives the paired difference of each arm to one arm.

    Raises:
        ValueError: as `ablation_table`; a factor no arm has; two arms in one cell.
    """
    phase = phase_to_read(frame, spec.phase)
    trials = frame[frame["phase"] == phase]
    names = spec.metrics or (metric_to_read(trials, phase, None).column,)
    metrics = [column_named(name) for name in names]
    ok = trials[trials["status"] == "ok"]
    empty = [name for name in names if name not in ok or (len(ok) and not ok[name].notna().any())]
    if empty:
        raise ValueError(f"no finished trial of phase '{phase}' has {', '.join(empty)}")
    arms = list_arms(trials, declared_by(frame))
    reference = find_arm(arms, spec.baseline) if spec.baseline is not None else marked_baseline(arms)
    if reference is None and spec.show.startswith("diff"):
        raise ValueError(f"show={spec.show} needs a baseline and none, or more than one, is marked; set baseline")
    columns = {metric.column: cells_of(arms, metric, reference, spec, compare) for metric in metrics}
    groups, rows = arranged(arms, columns, metrics, reference, spec)
    paper = paper_table(spec.paper) if spec.paper else None
    if paper is not None:
        rows = [replace(row, paper=published(row, paper)) for row in rows]
    notes = footnotes([cell for row in rows for cell in row.cells if cell is not None])
    rows = [
        replace(row, cells=[cell and replace(cell, note=notes.get(cell.missing, "")) for cell in row.cells])
        for row in rows
    ]
    studies = trials["study"].dropna().unique().tolist()
    title = f"{' + '.join(studies) or frame.attrs.get('path', 'study')}: phase {phase}, {', '.join(m.title for m in metrics)}"
    return Grid(
        spec=spec,
        title=spec.caption or title,
        corner=spec.rows,
        groups=groups,
        metrics=metrics,
        digits={metric.column: digits_of(columns[metric.column], metric, spec.digits) for metric in metrics},
        rows=rows,
        paper=paper.columns if paper else (),
        legend=legend_of(rows, metrics, reference, spec, notes, paper, frame, trials),
    )


def cells_of(
    arms: Sequence[Arm], metric: MetricColumn, reference: Arm | None, spec: TableSpec, compare: Compare
) -> list[Cell]:
    """Make the cells of one metric: means, differences, marks, and which are the best."""
    measured = arm_values(arms, metric.column)
    is_metric = not metric.is_cost
    cells = []
    for arm, values, sources in zip(arms, measured, all_sources(arms, metric.column), strict=True):
        n = len(values.values)
        lost = [status for status in values.statuses if status != "ok"]
        without = "not measured in an exclusive slot" if metric.column in LATENCIES else "without a value"
        lost += [without] * (values.statuses.count("ok") - n)
        cells.append(
            Cell(
                arm=arm,
                metric=metric,
                n=n,
                missing=", ".join(f"{lost.count(what)} {what}" for what in dict.fromkeys(lost)),
                mean=float(values.values.mean()) if n else float("nan"),
                sd=float(values.values.std(ddof=1)) if n > 1 else float("nan"),
                doubt=NOT_ALONE if metric.column in LATENCIES and values.latency_exclusive is False else "",
                sources=sources,
            )
        )
    if reference is not None and is_metric:
        at = next(position for position, arm in enumerate(arms) if arm is reference)
        results = compared(arms, measured, at, compare)
        judging = Judging(correction=spec.correction, margin=spec.margin)  # type: ignore[arg-type]
        facts = judged(measured, measured[at], results, judging)
        survived = [survivors(values, measured[at], metric.worst) for values in measured]
        cells = [
            replace(
                cell,
                result=result,
                p_corrected=float("nan") if fact["p_corrected"] is None else fact["p_corrected"],
                facts=fact,
                stars=stars_of(fact) if spec.marks and not came.lost else "",
                failed=result is not None and came.lost > 0,
            )
            for cell, result, fact, came in zip(cells, results, facts, survived, strict=True)
        ]
    if spec.bold == "best":
        for position in best_of(arms, measured, cells, metric, spec.correction if is_metric else None, compare):
            cells[position] = replace(cells[position], best=True)
    return cells


def digits_of(cells: Sequence[Cell], metric: MetricColumn, digits: int | None) -> tuple[int, int]:
    """Digits after the point for the means and the differences of a metric, as their 95% intervals allow."""
    if digits is not None:
        return digits, digits
    if metric.is_cost:
        return metric.decimals, metric.decimals
    half = [
        float(stats.t.ppf((1 + CONFIDENCE) / 2, cell.n - 1)) * cell.sd / cell.n**0.5 for cell in cells if cell.n > 1
    ]
    results = [cell.result for cell in cells if cell.result is not None]
    widths = [(each.high - each.low) / 2 for each in results if each.low is not None and each.high is not None]
    return decimals_for(half, metric.decimals), decimals_for(widths, decimals_for(half, metric.decimals))


def arranged(
    arms: Sequence[Arm],
    columns: dict[str, list[Cell]],
    metrics: Sequence[MetricColumn],
    reference: Arm | None,
    spec: TableSpec,
) -> tuple[list[str], list[GridRow]]:
    """Put the cells into rows and columns; the baseline's row comes first."""
    down = levels(arms, spec.rows)
    across = levels(arms, spec.columns) if spec.columns else [""] * len(arms)
    groups = list(dict.fromkeys(level for level in across if level is not None))
    places: dict[tuple[str, bool], dict[str, int]] = {}
    for position, (name, group) in enumerate(zip(down, across, strict=True)):
        spans = spec.columns is not None and group is None
        row = places.setdefault((name if name is not None else arms[position].label, spans), {})
        at = "" if group is None else group
        if at in row:
            raise ValueError(
                f"'{arms[row[at]].label}' and '{arms[position].label}' fall into one cell (row {name}, column "
                f"{at or spec.columns or 'of the metric'}); choose rows and columns that tell them apart"
            )
        row[at] = position
    rows = []
    for (name, spans), found in places.items():
        positions = [found.get(group) for group in ([""] if spans else groups)]
        cells = [None if at is None else columns[m.column][at] for at in positions for m in metrics]
        is_baseline = reference is not None and spec.columns is None and arms[positions[0] or 0] is reference
        is_baseline = is_baseline or (spans and reference is not None and arms[found[""]] is reference)
        rows.append(GridRow(name=name, is_baseline=is_baseline, spans=spans, cells=cells))
    if spec.sort == "name":
        rows.sort(key=lambda row: row.name)
    elif spec.sort == "mean":
        rows.sort(key=lambda row: best_mean(row, metrics[0]))
    rows.sort(key=lambda row: not row.is_baseline)
    return groups, rows


def best_mean(row: GridRow, metric: MetricColumn) -> float:
    """Key that puts the row with the best mean of a metric first, and rows without one last."""
    means = [cell.mean for cell in row.cells if cell is not None and cell.metric is metric and cell.n]
    return min(-mean if metric.higher_is_better else mean for mean in means) if means else float("inf")


def published(row: GridRow, paper: PaperTable) -> tuple[str, ...]:
    """Return the published figures that belong to a row: by its name, or by where or what its arms vary."""
    labels = [row.name, *(cell.arm.label for cell in row.cells if cell is not None)]
    halves = [part for label in labels for part in (label, *label.split(": ", 1))]
    for part in (*halves, *(half.split("(", 1)[0] for half in halves)):
        if part in paper.rows:
            return paper.rows[part]
    return ("-",) * len(paper.columns)
