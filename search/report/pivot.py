"""A table as its spec asks for it: figures in rows and columns, with marks, and a legend that says what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from search.ledger.metric import MetricColumn, column_named
from search.report.arms import Arm
from search.report.figures import Figure, Line, cell_of, digits_of, figures_of, legend_of, lettered
from search.report.judging import EQUIVALENCE, SIZES
from search.report.reading.scored import kept_nothing, with_scores
from search.report.spec import PaperTable, TableSpec, paper_table
from search.report.table import Cell, Column, Row, Table, with_dtypes
from search.report.values import levels, read_arms
from search.report.words import one_line

NO_TRIAL = "no trial of this combination"

PIVOT_COLUMNS: dict[str, str] = {
    "row": "string",
    "column": "string",  # level of the columns' factor; NA without one, and for an arm that has none
    "metric": "string",
    "arm": "string",
    "arch_hash": "string",
    "recipe_hash": "string",
    "is_baseline": "boolean",
    "n": "Int64",  # seeds that finished
    "missing": "string",
    "mean": "Float64",
    "sd": "Float64",
    "n_paired": "Int64",
    "diff": "Float64",
    "ci_low": "Float64",  # 95%, not corrected
    "ci_high": "Float64",
    "p_value": "Float64",  # not corrected
    **SIZES,
    **EQUIVALENCE,
    "best": "boolean",  # the best of its metric, or not to be told from it
    "paper": "string",  # the published figures of the row, as "heading: text; ..."
}
"""Name and dtype of each column of `PivotTable.data`: one row a figure."""


@dataclass(frozen=True, kw_only=True)
class PivotTable(Table):
    """A table whose `data` has one row for each figure, with the columns `PIVOT_COLUMNS`.

    Its `lines` are the rows at full precision; `groups` the levels of the columns' factor, one empty text where there is none;
    `digits` those after the point for each metric: (of means, of differences).
    """

    spec: TableSpec
    metrics: list[MetricColumn]
    groups: list[str]
    lines: list[Line] = field(repr=False)
    digits: dict[str, tuple[int, int]]

    @property
    def figures(self) -> list[tuple[Line, str, Figure]]:
        """Every figure there is, with its line and the level of its column ("" where it has none)."""
        return _placed(self.lines, self.groups, self.metrics)

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """Where each figure comes from, by row, column and metric; see `provenance_of_arms`."""
        return [
            {
                "row": line.name,
                "column": group or None,
                "metric": each.metric.column,
                "arm": each.arm.label,
                **each.provenance,
            }
            for line, group, each in self.figures
        ]


def pivot_table(
    frame: pd.DataFrame, spec: TableSpec, digits: Mapping[str, tuple[int, int]] | None = None
) -> PivotTable:
    """Make the table that a spec asks for.

    `digits` are those of some metrics, as `PivotTable.digits`, in place of those that the spec or the intervals say. ValueError as
    `ablation_table`, for a factor that no arm has, and for two arms in one cell.
    """
    frame = with_scores(frame, spec.metrics)
    read = read_arms(frame, spec.phase, baseline=spec.baseline)
    metrics = [column_named(name) for name in spec.metrics] or [read.metric]
    ok = read.trials[read.trials["status"] == "ok"]
    empty = [
        each.column for each in metrics if each.column not in ok or (len(ok) and not ok[each.column].notna().any())
    ]
    if empty:
        how = next((how for each in metrics if each.column in empty and (how := kept_nothing(each))), "")
        raise ValueError(f"no finished trial of phase '{read.phase}' has {', '.join(empty)}{how}")
    if read.reference is None and spec.show.startswith("diff"):
        raise ValueError(f"show={spec.show} needs a baseline and none, or more than one, is marked; set baseline")
    columns = {metric.column: figures_of(read.arms, metric, read.reference, spec) for metric in metrics}
    groups, lines = _arranged(read.arms, columns, metrics, read.reference, spec)
    paper = paper_table(spec.published) if spec.published else None
    lines = lettered([replace(line, paper=published(line, paper)) for line in lines] if paper else lines)
    shown_digits = {metric.column: digits_of(columns[metric.column], metric, spec.digits) for metric in metrics}
    shown_digits |= digits or {}
    headings = paper.columns if paper else ()
    studies = read.studies or frame.attrs.get("path", "study")
    title = f"{studies}: phase {read.phase}, {', '.join(metric.title for metric in metrics)}"
    return PivotTable(
        name=spec.name,
        title=spec.caption or title,
        columns=_displayed_columns(spec, groups, metrics, headings),
        rows=[_displayed(line, spec, shown_digits, len(groups) * len(metrics)) for line in lines],
        data=with_dtypes(_data_rows(_placed(lines, groups, metrics), headings), PIVOT_COLUMNS),
        notes=legend_of(lines, metrics, read.reference, spec, frame, read.phase),
        spec=spec,
        metrics=metrics,
        groups=groups,
        lines=lines,
        digits=shown_digits,
    )


def _arranged(
    arms: Sequence[Arm],
    columns: dict[str, list[Figure]],
    metrics: Sequence[MetricColumn],
    reference: Arm | None,
    spec: TableSpec,
) -> tuple[list[str], list[Line]]:
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
        rows.append(Line(name=name, is_baseline=is_baseline, spans=spans, figures=cells))
    if spec.sort == "name":
        rows.sort(key=lambda row: row.name)
    elif spec.sort == "mean":
        rows.sort(key=lambda row: _best_mean(row, metrics[0]))
    rows.sort(key=lambda row: not row.is_baseline)
    return groups, rows


def _best_mean(row: Line, metric: MetricColumn) -> float:
    """Key that puts the row with the best mean of a metric first, and rows without one last."""
    means = [cell.mean for cell in row.figures if cell is not None and cell.metric is metric and cell.n]
    return min(-mean if metric.higher_is_better else mean for mean in means) if means else float("inf")


def published(row: Line, paper: PaperTable) -> tuple[str, ...]:
    """Return the published figures that belong to a row: by its name, or by where or what its arms vary."""
    labels = [row.name, *(cell.arm.label for cell in row.figures if cell is not None)]
    halves = [part for label in labels for part in (label, *label.split(": ", 1))]
    for part in (*halves, *(half.split("(", 1)[0] for half in halves)):
        if part in paper.rows:
            return paper.rows[part]
    return ("-",) * len(paper.columns)


def _placed(
    lines: Sequence[Line], groups: Sequence[str], metrics: Sequence[MetricColumn]
) -> list[tuple[Line, str, Figure]]:
    """Return every figure there is, with its line and the level of its column ("" where it has none)."""
    wide = [group for group in groups for _ in metrics]
    return [
        (line, "" if line.spans else group, each)
        for line in lines
        for group, each in zip([""] * len(line.figures) if line.spans else wide, line.figures, strict=True)
        if each is not None
    ]


def _displayed_columns(
    spec: TableSpec, groups: Sequence[str], metrics: Sequence[MetricColumn], paper: Sequence[str]
) -> list[Column]:
    """Return the columns: the names, ours in their groups, the published ones. Headings say where differences are shown."""
    differ = spec.show.startswith("diff")
    ours = [
        Column(
            f"{group} {metric.column}".strip(),
            f"{metric.title}, difference" if differ and not metric.is_cost else metric.title,
            "point",
            group=group if spec.columns is not None else None,
        )
        for group in groups
        for metric in metrics
    ]
    published = [Column(title, title, "words") for title in paper]
    return [Column(spec.rows, spec.rows, "words"), *ours, *published]


def _displayed(line: Line, spec: TableSpec, digits: Mapping[str, tuple[int, int]], wide: int) -> Row:
    """Round a line for a reader; one that spans is filled up with empty cells."""
    name = Cell(one_line(line.name, 400) + " (baseline)" * line.is_baseline)
    figures = [
        Cell("-", title=NO_TRIAL) if each is None else cell_of(each, spec, *digits[each.metric.column])
        for each in line.figures
    ]
    left = [Cell("")] * (wide - len(figures))
    return Row([name, *figures, *left, *map(Cell, line.paper)], spans=line.spans)


def _data_rows(figures: Sequence[tuple[Line, str, Figure]], paper: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for row, group, cell in figures:
        pairs = zip(paper, row.paper, strict=True)
        rows.append(
            {
                "row": row.name,
                "column": group or None,
                "metric": cell.metric.column,
                "arm": cell.arm.label,
                "arch_hash": cell.arm.arch_hash,
                "recipe_hash": cell.arm.recipe_hash,
                "is_baseline": row.is_baseline,
                "n": cell.n,
                "missing": cell.missing or None,
                "mean": cell.mean,
                "sd": cell.sd,
                **cell.columns(),
                "best": cell.best,
                "paper": "; ".join(f"{title}: {text}" for title, text in pairs if text != "-") or None,
            }
        )
    return rows
