"""One table, four readers: Markdown for a README, LaTeX for a paper, CSV for a program, plain text for a terminal."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import pandas as pd

from search.report.escape import latex, markdown
from search.report.table import AblationTable
from search.report.words import decimals_for, interval_decimals, one_line, scaled, signed, significant

__all__ = ["render_text", "to_csv", "to_latex", "to_markdown"]

TEXT_WIDTH = 120
MISSING_WIDTH = 12
NARROWEST_ARM = 20


@dataclass(frozen=True)
class Column:
    """One displayed column: its heading, its cells as text, and to which side they stand."""

    name: str
    title: str
    cells: list[str]
    right: bool = True


def columns_of(table: AblationTable, plus_minus: str = "±") -> list[Column]:
    """Round the numbers of a table for a reader; an empty cell is a dash."""
    data = table.data
    rows: list[Any] = list(data.itertuples(index=False))
    decimals = decimals_for(data["sd"].dropna().tolist(), table.metric.decimals)
    intervals = data[["ci_low", "ci_high"]].dropna().itertuples(index=False, name=None)
    finer = interval_decimals(intervals, decimals)

    def spread(row: Any) -> str:
        if pd.isna(row.mean):
            return "-"
        return f"{row.mean:.{decimals}f}" + ("" if pd.isna(row.sd) else f" {plus_minus} {row.sd:.{decimals}f}")

    def interval(row: Any) -> str:
        return "-" if pd.isna(row.ci_low) else f"[{signed(row.ci_low, finer)}, {signed(row.ci_high, finer)}]"

    def each(name: str, show: Any) -> list[str]:
        return ["-" if pd.isna(value) else show(value) for value in data[name]]

    labels = [f"{one_line(row.arm, 400)} (baseline)" if row.is_baseline else one_line(row.arm, 400) for row in rows]
    shown = [
        Column("arm", "arm", labels, right=False),
        Column("n", "n", each("n", str)),
        Column("missing", "missing", each("missing", str), right=False),
        Column("mean", table.metric.title, [spread(row) for row in rows]),
        Column("diff", "diff", each("diff", lambda value: signed(value, finer))),
        Column("interval", "95% interval", [interval(row) for row in rows]),
        Column("params", "params", each("params", scaled)),
        Column("macs", "MACs", each("macs", scaled)),
        Column("latency", "latency ms", each("latency_ms", significant)),
        Column("fused", "fused ms", each("latency_fused_ms", significant)),
        Column("verdict", "against the baseline", each("verdict", str), right=False),
    ]
    droppable = ("missing", "diff", "interval", "latency", "fused", "verdict", "params", "macs")
    return [column for column in shown if column.name not in droppable or set(column.cells) != {"-"}]


def to_markdown(table: AblationTable) -> str:
    """Format as a GitHub table with the conclusion above it and the notes below."""
    columns = columns_of(table)
    cells = [[text if column.right else markdown(text) for text in (column.title, *column.cells)] for column in columns]
    widths = [max(3, *map(len, column)) for column in cells]
    lines = [
        "| "
        + " | ".join(
            pad(column[row], width, shown.right) for column, width, shown in zip(cells, widths, columns, strict=True)
        )
        + " |"
        for row in range(len(table.data) + 1)
    ]
    rule = (
        "| "
        + " | ".join(
            "-" * (width - 1) + (":" if shown.right else "-") for width, shown in zip(widths, columns, strict=True)
        )
        + " |"
    )
    lines.insert(1, rule)
    notes = [f"- {markdown(one_line(note, 1000))}" for note in table.notes]
    return "\n".join([f"**{markdown(table.title)}**", "", *lines, "", markdown(table.conclusion), "", *notes, ""])


def to_latex(table: AblationTable) -> str:
    r"""Format as a booktabs `tabular`, pure ASCII, with the conclusion and the notes as comments above it.

    It needs `\usepackage{booktabs}` and nothing else.
    """
    columns = columns_of(table, plus_minus=r"\pm")
    numbers = {"mean", "diff", "interval"}
    rows = []
    for number in range(len(table.data)):
        cells = []
        for column in columns:
            text = column.cells[number]
            cells.append("--" if text == "-" else f"${text}$" if column.name in numbers else latex(text))
        rows.append("    " + " & ".join(cells) + r" \\")
    head = "    " + " & ".join(latex(column.title) for column in columns) + r" \\"
    comments = [f"% {latex(one_line(text, 1000))}" for text in (table.title, table.conclusion, *table.notes)]
    return "\n".join(
        [
            *comments,
            r"% \usepackage{booktabs}",
            rf"\begin{{tabular}}{{{''.join('r' if column.right else 'l' for column in columns)}}}",
            r"    \toprule",
            head,
            r"    \midrule",
            *rows,
            r"    \bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def to_csv(table: AblationTable) -> str:
    """Format the numbers at full precision, one line for each arm, with the columns `DATA_COLUMNS`."""
    return table.data.to_csv(index=False, lineterminator="\n")


def render_text(table: AblationTable, width: int = TEXT_WIDTH) -> str:
    """Format for a terminal: the aligned table, a line for each verdict, the conclusion, the notes.

    Long names break into several lines; the verdicts stand below the table because they would make it too wide.
    """
    columns = [column for column in columns_of(table) if column.name != "verdict"]
    taken = sum(widest(column) + 2 for column in columns if column.name != "arm")
    limits = {"arm": max(NARROWEST_ARM, width - taken), "missing": MISSING_WIDTH}
    cells = [
        [textwrap.wrap(text, limits.get(column.name, width)) or [""] for text in (column.title, *column.cells)]
        for column in columns
    ]
    widths = [max(len(line) for lines in column for line in lines) for column in cells]
    lines = []
    for row in range(len(table.data) + 1):
        height = max(len(column[row]) for column in cells)
        for line in range(height):
            parts = [
                pad(column[row][line] if line < len(column[row]) else "", size, shown.right)
                for column, size, shown in zip(cells, widths, columns, strict=True)
            ]
            lines.append("  ".join(parts).rstrip())
        if row == 0:
            lines.append("  ".join("-" * size for size in widths))
    rows: list[Any] = list(table.data.itertuples(index=False))
    verdicts = [f"{one_line(row.arm, 400)}: {row.verdict}" for row in rows if pd.notna(row.verdict)]
    if verdicts:
        lines += ["", "Against the baseline", *(filled(text, width, "  ") for text in verdicts)]
    lines += [
        "",
        filled(table.conclusion, width),
        "",
        "Notes",
        *(filled(one_line(note, 1000), width, "  ") for note in table.notes),
    ]
    return "\n".join([table.title, "", *lines, ""])


def widest(column: Column) -> int:
    """Width of a column in plain text."""
    width = max(map(len, (column.title, *column.cells)))
    return min(width, MISSING_WIDTH) if column.name == "missing" else width


def filled(text: str, width: int, indent: str = "") -> str:
    """Break a paragraph into lines, the later ones indented a little further."""
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent * 2, break_on_hyphens=False)


def pad(text: str, width: int, right: bool) -> str:
    """Fill a cell up to its width."""
    return text.rjust(width) if right else text.ljust(width)
