"""The form of a table that goes into a paper: arms in words, costs in one unit, the difference beside the mean where there is room."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from search.ledger.metric import LATENCIES, MetricColumn
from search.report.arms import Arm, find_arm
from search.report.figures import SHOWN, Figure, Line, cell_of
from search.report.naming import in_words, level_in_words
from search.report.notes import HOW_TO_READ, change_notes, recipe_note, unreadable
from search.report.pivot import PivotTable
from search.report.provenance import odd_trials
from search.report.starts import estimand, is_continued
from search.report.table import NOTHING, Cell, Column, Row, Table
from search.report.values import read_arms
from search.report.words import joined, joined_few, one_line

WIDTHS = ("single", "double")  # columns of a page
_ROW = "; the baseline's row: its mean"
UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def paper_form(
    grid: PivotTable,
    frame: pd.DataFrame,
    *,
    wide: bool,
    labels: Mapping[str, str] | None = None,
    caption: str | None = None,
) -> Table:
    """Set a grid for a paper.

    Args:
        frame: what the grid was made of.
        wide: over both columns of a page: means have their difference to the baseline, with its 95% interval, beside them.
        caption: by default what was measured, of which backbone.
        labels: names of rows, by the name or the hash of their arm, or by the level that they are; others are put into words.

    Returns:
        A table whose notes are its legend, and whose conclusion has what else is to be known, for comments. ValueError for a label of
        no row.
    """
    arms = _arms_of(grid)
    words, shared = in_words(arms)
    named = words | {
        _row_named(grid, name) or find_arm(arms, name).label: label for name, label in (labels or {}).items()
    }
    beside = [
        metric for metric in grid.metrics if wide and grid.spec.show == "mean_sd" and _has_differences(grid, metric)
    ]
    scales = {metric.column: _scale(grid, metric) for metric in grid.metrics}
    columns, rows = _columns(grid, beside, scales), [_row(grid, line, named, beside, scales) for line in grid.lines]
    aside = {HOW_TO_READ, *change_notes(frame), *recipe_note(arms), *odd_trials(arms), *unreadable(frame)}
    kept = [note for note in grid.notes if note not in aside]
    legend = [_reworded(note, named) for note in kept]
    if beside:
        legend[0] = legend[0].replace(
            SHOWN["mean_sd"], f"{SHOWN['mean_sd']}; {SHOWN['diff_interval'].replace(_ROW, '')}"
        )
    if shared:
        legend.append(f"Blocks have {shared}.")
    return Table(
        name=f"{grid.name}_{WIDTHS[wide]}",
        title=caption or _caption(grid, frame),
        columns=columns,
        rows=rows,
        data=grid.data,
        conclusion=grid.conclusion,
        notes=legend,
        beside=("", [grid.title, *(note for note in grid.notes if note in aside)]),
    )


def labels_of(grid: PivotTable, texts: Sequence[str]) -> dict[str, str]:
    """Part each "ARM=TEXT" at the first sign behind which a name ends, since names have such signs too; ValueError where none does."""
    found = {}
    for text in texts:
        ends = [at for at, sign in enumerate(text) if sign == "="]
        at = next((at for at in ends if _row_named(grid, text[:at])), None)
        if at is None:
            rows = joined_few([f"'{line.name}'" for line in grid.lines], 12)
            raise ValueError(
                f"--label {text}: no row has the name before the '='; give it whole, or its hash. Rows: {rows}"
            )
        found[text[:at]] = text[at + 1 :]
    return found


def _row_named(grid: PivotTable, name: str) -> str | None:
    """The row, or the label of the arm, that a name means; None where it means none, or several."""
    if name in {line.name for line in grid.lines}:
        return name
    try:
        return find_arm(_arms_of(grid), name).label
    except ValueError:
        return None


def _arms_of(grid: PivotTable) -> list[Arm]:
    return list({id(each.arm): each.arm for _, _, each in grid.figures}.values())


def _has_differences(grid: PivotTable, metric: MetricColumn) -> bool:
    return not metric.is_cost and any(each.metric is metric and each.result is not None for *_, each in grid.figures)


def _caption(grid: PivotTable, frame: pd.DataFrame) -> str:
    """Say what was measured, of which network, and how it came to be where it was not trained from scratch."""
    judged = joined([_capital(metric) for metric in grid.metrics if not metric.is_cost]) or "Costs"
    backbones = joined([str(name) for name in frame["backbone"].dropna().unique()])
    read = read_arms(frame, grid.spec.phase)
    how = f": {estimand(read)}" if is_continued(read) else ""
    return f"{judged}{f' of {backbones}' if backbones else ''}{how}."


def _scale(grid: PivotTable, metric: MetricColumn) -> tuple[float, str, int]:
    """In which unit a cost is told, and with how many digits after the point, so that the largest has three significant ones."""
    values = [each.mean for *_, each in grid.figures if each.metric is metric and each.n]
    if not metric.is_cost or metric.column in LATENCIES or not values:
        return 1.0, "", metric.decimals
    size, unit = next((size, unit) for size, unit in UNITS if max(values) >= size * 0.9995 or size == 1.0)
    return size, unit, 0 if size == 1.0 else 2 - min(len(f"{max(values) / size:.0f}") - 1, 2)


def _columns(
    grid: PivotTable, beside: Sequence[MetricColumn], scales: Mapping[str, tuple[float, str, int]]
) -> list[Column]:
    spec = grid.spec
    columns = [Column(spec.rows, "" if spec.rows == "arm" else spec.rows, "words")]
    for group in grid.groups:
        above = level_in_words(spec.columns, group) if spec.columns is not None else None
        for metric in grid.metrics:
            unit = scales[metric.column][1]
            title = _capital(metric) + (f" ({unit})" if unit else "")
            differ = spec.show.startswith("diff") and not metric.is_cost
            title += " difference" if differ else ""
            columns.append(Column(f"{group} {metric.column}".strip(), title, "point", group=above))
            if metric in beside:
                columns.append(
                    Column(f"{group} {metric.column} diff".strip(), "Difference [95%]", "point", group=above)
                )
    return columns + [Column(title, title, "words") for title in _published(grid)]


def _capital(metric: MetricColumn) -> str:
    """The title of a metric of ours with a capital; the name of somebody's column as it is."""
    return metric.title[0].upper() + metric.title[1:] if metric.split or metric.is_cost else metric.title


def _published(grid: PivotTable) -> list[str]:
    taken = 1 + len(grid.groups) * len(grid.metrics)
    return [column.title for column in grid.columns[taken:]]


def _row(
    grid: PivotTable,
    line: Line,
    named: Mapping[str, str],
    beside: Sequence[MetricColumn],
    scales: Mapping[str, tuple[float, str, int]],
) -> Row:
    name = named.get(line.name) or level_in_words(grid.spec.rows, line.name)
    cells = [Cell(one_line(name, 400) + " (baseline)" * line.is_baseline)]
    metrics = [metric for _ in ([""] if line.spans else grid.groups) for metric in grid.metrics]
    for metric, each in zip(metrics, line.figures, strict=True):
        cells.append(NOTHING if each is None else _cell(grid, each, scales[metric.column]))
        if metric in beside:
            cells.append(Cell("") if line.spans else _difference(grid, each))
    wide = len(grid.groups) * (len(grid.metrics) + len(beside))
    cells += [Cell("")] * (1 + wide - len(cells))
    return Row([*cells, *map(Cell, line.paper)], spans=line.spans)


def _cell(grid: PivotTable, each: Figure, scale: tuple[float, str, int]) -> Cell:
    shown = cell_of(each, grid.spec, *grid.digits[each.metric.column])
    if not each.metric.is_cost or not each.n:
        return shown
    size, _, digits = scale
    return shown._replace(text=f"{each.mean / size:.{digits}f}", bold=False, marks=each.doubt)


def _difference(grid: PivotTable, each: Figure | None) -> Cell:
    if each is None or each.result is None:
        return NOTHING
    shown = cell_of(each, replace(grid.spec, show="diff_interval"), *grid.digits[each.metric.column])
    return Cell(shown.text, shown.behind)


def _reworded(note: str, named: Mapping[str, str]) -> str:
    """Put the names of a table into a sentence of its legend, where arms are named: in brackets, or in a list."""
    labels = "|".join(re.escape(label) for label in sorted(named, key=len, reverse=True))
    start, end = r"(?:(?<=\()|(?<=: )|(?<=, )|(?<= and ))", r"(?=[),.:;]| and | \(| on \d)"
    return re.sub(f"{start}({labels}){end}", lambda found: named[found[1]], note)
