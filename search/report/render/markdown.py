"""A table for a README: as GitHub shows tables."""

from __future__ import annotations

import re

from search.report.table import Cell, Column, Table, headings
from search.report.words import one_line

__all__ = ["markdown", "to_markdown"]


def to_markdown(table: Table) -> str:
    """Format as a GitHub table with the conclusion, the notes and the tables that belong below it.

    A header of two rows becomes one, which is all that GitHub's tables have.
    """
    lines = [f"**{markdown(table.title)}**", "", *aligned(table)]
    if table.conclusion:
        lines += ["", markdown(table.conclusion)]
    if table.notes:
        lines += ["", *(f"- {markdown(one_line(note, 1000))}" for note in table.notes)]
    for below in table.below:
        lines += ["", to_markdown(below).rstrip("\n")]
    return "\n".join([*lines, ""])


def aligned(table: Table) -> list[str]:
    """Format the columns; the cells of a row that spans stand in the first ones, since no cell can span here."""
    columns = [
        [markdown(title), *(shown(row.cells[at], column) for row in table.rows)]
        for at, (title, column) in enumerate(zip(headings(table), table.columns, strict=True))
    ]
    widths = [max(3, *map(len, column)) for column in columns]
    right = [column.kind != "words" for column in table.columns]
    lines = [
        " | ".join(
            column[row].rjust(width) if to_right else column[row].ljust(width)
            for column, width, to_right in zip(columns, widths, right, strict=True)
        )
        for row in range(len(table.rows) + 1)
    ]
    rule = ("-" * (width - 1) + (":" if to_right else "-") for width, to_right in zip(widths, right, strict=True))
    return [f"| {line} |" for line in (lines[0], " | ".join(rule), *lines[1:])]


def shown(cell: Cell, column: Column) -> str:
    """Format one cell. Figures are made by the builders, of numbers alone: they need no escape."""
    if column.kind == "words":
        return markdown(cell.text)
    text = f"**{cell.text}**" if cell.bold else cell.text
    marked = f"<sup>{markdown(cell.marks)}</sup>" if cell.marks else ""
    return f"{text}{marked} {cell.behind}".rstrip()


def markdown(text: str) -> str:
    """Escape text for a cell of a GitHub table, on one line."""
    flat = re.sub(r"[\x00-\x20\x7f\x85\u2028\u2029]+", " ", text).strip()
    special = r"([\\|`*<>~&\[\]])" if "](" in flat else r"([\\|`*<>~&])"  # brackets alone make no link
    flat = re.sub(special, r"\\\1", flat)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", flat)
