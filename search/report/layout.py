"""Columns of text as a plain table, a GitHub table or the rows of a LaTeX `tabular`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.report.escape import latex, markdown

__all__ = ["Column", "filled", "latex_frame", "latex_name", "latex_tabular", "markdown_table", "plain_table"]

LONG_NAME = (
    20  # characters; where a row has a longer one, the first column takes what the others leave and breaks its names
)


@dataclass(frozen=True)
class Column:
    """One displayed column: its heading, its cells as text, and to which side they stand."""

    name: str
    title: str
    cells: list[str]
    right: bool = True


def markdown_table(columns: Sequence[Column]) -> list[str]:
    """Format as the lines of a GitHub table."""
    cells = [
        [markdown(column.title), *(text if column.right else markdown(text) for text in column.cells)]
        for column in columns
    ]
    widths = [max(3, *map(len, column)) for column in cells]
    lines = [
        "| "
        + " | ".join(
            pad(column[row], width, shown.right) for column, width, shown in zip(cells, widths, columns, strict=True)
        )
        + " |"
        for row in range(len(cells[0]))
    ]
    rule = (
        "| "
        + " | ".join(
            "-" * (width - 1) + (":" if shown.right else "-") for width, shown in zip(widths, columns, strict=True)
        )
        + " |"
    )
    lines.insert(1, rule)
    return lines


def latex_tabular(columns: Sequence[Column], numbers: Sequence[str]) -> list[str]:
    """Format as the lines of a booktabs table no wider than the line; those named in `numbers` are set in mathematics."""
    rows = []
    for number in range(len(columns[0].cells)):
        cells = [latex_name(columns[0].cells[number])]
        for column in columns[1:]:
            text = column.cells[number]
            cells.append("--" if text == "-" else f"${text}$" if column.name in numbers and text else latex(text))
        rows.append("    " + " & ".join(cells) + r" \\")
    head = "    " + " & ".join(latex(column.title) for column in columns) + r" \\"
    rest = "".join("r" if column.right else "l" for column in columns[1:])
    packages, begin, end = latex_frame(columns[0].cells, rest)
    return [
        r"% \usepackage{booktabs}",
        *packages,
        *begin,
        r"    \toprule",
        head,
        r"    \midrule",
        *rows,
        r"    \bottomrule",
        *end,
    ]


def latex_frame(names: Sequence[str], rest: str) -> tuple[list[str], list[str], list[str]]:
    """Return the packages, the first and the last lines of a table whose first column holds `names`.

    Args:
        names: of the rows.
        rest: the other columns, as LaTeX takes them.
    """
    if max(map(len, names), default=0) <= LONG_NAME:
        return [], [rf"\begin{{tabular}}{{l{rest}}}"], [r"\end{tabular}"]
    first = r">{\raggedright\arraybackslash\hangindent=1em}X"
    small = [
        r"{\footnotesize\setlength{\tabcolsep}{3pt}%",
        rf"\begin{{tabularx}}{{\linewidth}}{{@{{}}{first}{rest}@{{}}}}",
    ]
    return [r"% \usepackage{tabularx}"], small, [r"\end{tabularx}}"]


def latex_name(name: str) -> str:
    """Escape the name of a row, which may break behind the signs that join its parts, and if it must behind an underscore."""
    joined = re.sub(r"(?<=\S)([+(,])(?=\S)", r"\1\\allowbreak{}", latex(name))
    return joined.replace(r"\_", r"\_\penalty500{}")


def plain_table(columns: Sequence[Column], limits: Mapping[str, int], width: int) -> list[str]:
    """Format for a terminal: aligned columns; a cell wider than its limit breaks into several lines."""
    cells = [
        [textwrap.wrap(text, limits.get(column.name, width)) or [""] for text in (column.title, *column.cells)]
        for column in columns
    ]
    widths = [max(len(line) for lines in column for line in lines) for column in cells]
    lines = []
    for row in range(len(cells[0])):
        height = max(len(column[row]) for column in cells)
        for line in range(height):
            parts = [
                pad(column[row][line] if line < len(column[row]) else "", size, shown.right)
                for column, size, shown in zip(cells, widths, columns, strict=True)
            ]
            lines.append("  ".join(parts).rstrip())
        if row == 0:
            lines.append("  ".join("-" * size for size in widths))
    return lines


def filled(text: str, width: int, indent: str = "") -> str:
    """Break a paragraph into lines, the later ones indented a little further."""
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent * 2, break_on_hyphens=False)


def pad(text: str, width: int, right: bool) -> str:
    """Fill a cell up to its width."""
    return text.rjust(width) if right else text.ljust(width)
