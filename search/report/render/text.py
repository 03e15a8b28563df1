"""A table in plain text: for a terminal, and for a README, as GitHub shows tables."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from search.report.table import Cell, Column, Table, headings
from search.report.words import one_line

__all__ = ["markdown", "render_text", "to_markdown"]

WIDTH = 120
NARROWEST = 20  # characters that words keep, however long the line gets


def render_text(table: Table, width: int = WIDTH) -> str:
    """Format for a terminal: the aligned table, what had no room in it, the conclusion, the notes, the tables below.

    Long words break into several lines.
    """
    lines = [table.title, "", *_aligned(table, width)]
    heading, beside = table.beside
    if beside:
        lines += ["", heading, *(_filled(text, width, "  ") for text in beside)]
    if table.conclusion:
        lines += ["", _filled(table.conclusion, width)]
    if table.notes:
        notes = (_filled(one_line(note, 1000), width, "  ") for note in table.notes)
        lines += ["", f"Notes on {table.of}" if table.of else "Notes", *notes]
    for below in table.below:
        lines += ["", render_text(below, width).rstrip("\n")]
    return "\n".join([*lines, ""])


def _aligned(table: Table, width: int) -> list[str]:
    """Format the columns; a cell wider than its limit breaks into several lines."""
    shown = [at for at, column in enumerate(table.columns) if "text" not in column.left_out]
    columns = [table.columns[at] for at in shown]
    titles = headings(table)
    texts = [[titles[at], *(plain(row.cells[at]) for row in table.rows)] for at in shown]
    cells = [
        [textwrap.wrap(text, limit) or [""] for text in column]
        for column, limit in zip(texts, limits(columns, texts, width), strict=True)
    ]
    widths = [max(len(line) for lines in column for line in lines) for column in cells]
    lines = []
    for row in range(len(table.rows) + 1):
        for line in range(max(len(column[row]) for column in cells)):
            parts = [
                pad(column[row][line] if line < len(column[row]) else "", size, shown)
                for column, size, shown in zip(cells, widths, columns, strict=True)
            ]
            lines.append("  ".join(parts).rstrip())
        if row == 0:
            lines.append("  ".join("-" * size for size in widths))
    return lines


def plain(cell: Cell) -> str:
    """What a cell shows."""
    return f"{cell.text}{cell.marks} {cell.behind}".rstrip() if cell.behind or cell.marks else cell.text


def limits(columns: Sequence[Column], texts: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return after how many characters the cells of each column break: words share what the others leave of the line."""
    free = [at for at, column in enumerate(columns) if column.kind == "words" and column.width is None]
    taken = sum(
        min(max(map(len, texts[at])), column.width or width) + 2 for at, column in enumerate(columns) if at not in free
    )
    left = max(width - taken - 2 * (len(free) - 1), NARROWEST * len(free))
    found = [column.width or width for column in columns]
    by_need = sorted(free, key=lambda at: max(map(len, texts[at])))
    for number, at in enumerate(by_need):  # who needs less than a share leaves it to the others
        share = left // (len(free) - number)
        found[at] = min(share, max(map(len, texts[at]))) if number < len(free) - 1 else left
        left -= found[at]
    return found


def _filled(text: str, width: int, indent: str = "") -> str:
    """Break a paragraph into lines, the later ones indented a little further."""
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent * 2, break_on_hyphens=False)


def pad(text: str, width: int, column: Column) -> str:
    """Fill a cell up to its width."""
    return text.ljust(width) if column.kind == "words" else text.rjust(width)


def to_markdown(table: Table) -> str:
    """Format as a GitHub table with the conclusion, the notes and the tables that belong below it.

    A header of two rows becomes one, which is all that GitHub's tables have.
    """
    lines = [f"**{markdown(table.title)}**", "", *_piped(table)]
    if table.conclusion:
        lines += ["", markdown(table.conclusion)]
    if table.notes:
        lines += ["", *(f"- {markdown(one_line(note, 1000))}" for note in table.notes)]
    for below in table.below:
        lines += ["", to_markdown(below).rstrip("\n")]
    return "\n".join([*lines, ""])


def _piped(table: Table) -> list[str]:
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
