"""A grid as Markdown, and its numbers at full precision as a data frame (CSV, Parquet, rows for a tracker)."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from search.ledger.metric import MetricColumn
from search.report.escape import markdown
from search.report.grid.grid import Cell, Grid, GridRow
from search.report.layout import Column, markdown_table
from search.report.words import one_line, scaled, signed

__all__ = ["GRID_COLUMNS", "grid_data", "grid_to_markdown", "heading", "marks", "row_name", "shown", "table_rows"]

GRID_COLUMNS: dict[str, str] = {
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
    "p_corrected": "Float64",
    "g_z": "Float64",  # mean over sd of the paired differences, with Hedges' correction
    "mdd": "Float64",  # smallest true difference found with 80% power at the error left to the row
    "power": "Float64",  # of a finding, to find a true difference of the size measured, or the margin where smaller
    "exaggeration": "Float64",  # of a finding: how many times too large such findings are on average
    "seeds_needed": "Int64",  # in all, for 80% power at the margin, by the sd measured; NA without one, and where decided
    "seeds_low": "Int64",  # the same by the lower end of the 95% interval of that sd
    "seeds_high": "Int64",  # and by the upper end
    "equivalence_p": "Float64",  # two one-sided t tests against the margin, not corrected
    "equivalence_p_corrected": "Float64",
    "best": "boolean",  # the best of its metric, or not to be told from it
    "paper": "string",  # the published figures of the row, as "heading: text; ..."
}
"""Name and dtype of each column of `grid_data`: one row a cell."""


FACTS = (
    "g_z",
    "mdd",
    "power",
    "exaggeration",
    "seeds_needed",
    "seeds_low",
    "seeds_high",
    "equivalence_p",
    "equivalence_p_corrected",
)


def shown(cell: Cell, grid: Grid) -> tuple[str, str]:
    """Round the numbers of a cell: the main figure, and what stands behind it ("" where nothing does)."""
    digits, finer = grid.digits[cell.metric.column]
    if not cell.n:
        return "-", ""
    if cell.metric.is_cost:
        return (f"{cell.mean:.{digits}f}" if cell.metric.decimals else scaled(cell.mean)), ""
    if grid.spec.show.startswith("diff") and cell.result is not None:
        if cell.result.mean is None:
            return "-", ""
        text = signed(cell.result.mean, finer)
        if grid.spec.show == "diff" or cell.result.low is None or cell.result.high is None:
            return text, ""
        return text, f"[{signed(cell.result.low, finer)}, {signed(cell.result.high, finer)}]"
    if grid.spec.show == "mean_sd" and not math.isnan(cell.sd):
        return f"{cell.mean:.{digits}f}", f"± {cell.sd:.{digits}f}"
    return f"{cell.mean:.{digits}f}", ""


def heading(metric: MetricColumn, grid: Grid) -> str:
    """Return the heading of a metric, which says where differences are shown instead of means."""
    return f"{metric.title}, difference" if is_difference(metric, grid) else metric.title


def is_difference(metric: MetricColumn, grid: Grid) -> bool:
    """Tell whether the cells of a metric show differences."""
    return grid.spec.show.startswith("diff") and not metric.is_cost


def marks(cell: Cell) -> str:
    """Return the marks behind a cell: stars, whether a latency is in doubt, then the letter of a footnote."""
    return ",".join(part for part in (cell.stars, cell.doubt, cell.note) if part)


def row_name(row: GridRow) -> str:
    """Return the name of a row on one line."""
    return one_line(row.name, 400) + (" (baseline)" if row.is_baseline else "")


def column_titles(grid: Grid) -> list[str]:
    """Return the heading of each of our columns, as one line."""
    several = len(grid.metrics) > 1
    return [
        " ".join(part for part in (group, heading(metric, grid) if several or not group else "") if part)
        for group in grid.groups
        for metric in grid.metrics
    ]


def grid_to_markdown(grid: Grid) -> str:
    """Format as a GitHub table; a two-row header becomes one row, which is all that GitHub's tables have."""
    width = len(grid.groups) * len(grid.metrics)
    rows = []
    for row in grid.rows:
        texts = [markdown_cell(cell, grid) for cell in row.cells]
        if row.spans:  # Markdown has no spanning cell: it stands in the first column
            texts += [""] * (width - len(texts))
        rows.append([row_name(row), *texts, *row.paper])
    titles = (grid.corner, *column_titles(grid), *grid.paper)
    columns = [
        Column(title, title, [row[number] for row in rows], right=0 < number <= width)
        for number, title in enumerate(titles)
    ]
    body = markdown_table(columns)
    legend = [f"- {markdown(one_line(text, 1000))}" for text in grid.legend]
    return "\n".join([f"**{markdown(grid.title)}**", "", *body, "", *legend, ""])


def markdown_cell(cell: Cell | None, grid: Grid) -> str:
    """Format one cell."""
    if cell is None:
        return "-"
    main, behind = shown(cell, grid)
    text = f"**{main}**" if cell.best and cell.n else main
    marked = f"<sup>{markdown(marks(cell))}</sup>" if marks(cell) else ""
    return f"{text}{marked} {behind}".rstrip()


def grid_data(grid: Grid) -> pd.DataFrame:
    """Return the numbers at full precision, one row a cell, with the columns `GRID_COLUMNS`."""
    rows = table_rows(grid)
    return pd.DataFrame(
        {name: pd.array([row[name] for row in rows], dtype=dtype) for name, dtype in GRID_COLUMNS.items()}  # type: ignore[call-overload]
    )


def table_rows(grid: Grid) -> list[dict[str, Any]]:
    """Return the cells as plain values by the names of `GRID_COLUMNS` (None where there is no value)."""
    rows: list[dict[str, Any]] = []
    for row, group, cell in grid.cells:
        result = cell.result
        pairs = zip(grid.paper, row.paper, strict=True)
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
                "mean": number(cell.mean),
                "sd": number(cell.sd),
                "n_paired": result.n if result else None,
                "diff": result.mean if result else None,
                "ci_low": result.low if result else None,
                "ci_high": result.high if result else None,
                "p_value": result.p_value if result else None,
                "p_corrected": number(cell.p_corrected),
                **{name: cell.facts[name] for name in FACTS},
                "best": cell.best,
                "paper": "; ".join(f"{title}: {text}" for title, text in pairs if text != "-") or None,
            }
        )
    return rows


def number(value: float) -> float | None:
    """Return None for what is not defined."""
    return None if math.isnan(value) else float(value)
