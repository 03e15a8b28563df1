"""One table, four readers: Markdown for a README, LaTeX for a paper, CSV for a program, plain text for a terminal."""

from __future__ import annotations

from typing import Any

import pandas as pd

from search.ledger.metric import NOT_ALONE
from search.report.effects.text import effects_text, effects_to_markdown
from search.report.escape import latex, markdown
from search.report.layout import Column, filled, latex_tabular, markdown_table, plain_table
from search.report.table import AblationTable
from search.report.words import (
    decimals_for,
    interval_decimals,
    one_line,
    p_is,
    p_shown,
    scaled,
    signed,
    significant,
)

__all__ = ["render_text", "to_csv", "to_latex", "to_markdown"]

TEXT_WIDTH = 120
MISSING_WIDTH = 12
NARROWEST_ARM = 20
ALWAYS = ("arm", "n", "mean")  # other columns are left out where no row has anything in them
BELOW = ("p", "wilcoxon", "equivalence", "boot", "g_z", "pairing", "verdict")  # a line for each row in plain text
NOT_IN_LATEX = ("verdict", "g_z", "pairing", "params", "macs", "latency", "fused")
NUMBERS = ("mean", "diff", "interval", "worst", "boot")  # set in mathematics by LaTeX
TITLED = (("boot", "bootstrap interval"), ("g_z", "g_z"), ("pairing", "pairing"))
P_TITLES = {"holm": "p (Holm)", "bonferroni": "p (Bonferroni)", "bh": "p (BH)", "none": "p"}


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

    def interval(low: Any, high: Any) -> str:
        return "-" if pd.isna(low) else f"[{signed(low, finer)}, {signed(high, finer)}]"

    def bought(row: Any) -> str:
        if pd.isna(row.correlation):
            return "-"
        return f"x{significant(row.variance_ratio, 2)} (r {signed(row.correlation, 2)})"

    def each(name: str, show: Any) -> list[str]:
        return ["-" if pd.isna(value) else show(value) for value in data[name]]

    def latency(name: str) -> list[str]:
        marks = ["" if exclusive is True else NOT_ALONE for exclusive in data["latency_exclusive"].tolist()]
        return [text if text == "-" else text + mark for text, mark in zip(each(name, significant), marks, strict=True)]

    labels = [f"{one_line(row.arm, 400)} (baseline)" if row.is_baseline else one_line(row.arm, 400) for row in rows]
    shown = [
        Column("arm", "arm", labels, right=False),
        Column("n", "n", each("n", str)),
        Column("missing", "missing", each("missing", str), right=False),
        Column("mean", table.metric.title, [spread(row) for row in rows]),
        Column("diff", "diff", each("diff", lambda value: signed(value, finer))),
        Column("interval", "95% interval", [interval(row.ci_low, row.ci_high) for row in rows]),
        Column("worst", "worst case", each("worst_diff", lambda value: signed(value, finer))),
        Column("boot", "95% bootstrap", [interval(row.boot_low, row.boot_high) for row in rows]),
        Column("p", P_TITLES[table.judging.correction], each("p_corrected", p_shown)),
        Column("wilcoxon", "p Wilcoxon", each("wilcoxon_p_corrected", p_shown)),
        Column("equivalence", "p equivalence", each("equivalence_p_corrected", p_shown)),
        Column("verdict", "against the baseline", each("verdict", str), right=False),
        Column("g_z", "g_z", each("g_z", lambda value: signed(value, 2))),
        Column("pairing", "pairing", [bought(row) for row in rows]),
        Column("dose", "dose", each("dose", lambda value: significant(value, 2))),
        Column("front", "Pareto", each("on_front", lambda member: "front" if member else "-")),
        Column("params", "params", each("params", scaled)),
        Column("macs", "MACs", each("macs", scaled)),
        Column("latency", "latency ms", latency("latency_ms")),
        Column("fused", "fused ms", latency("latency_fused_ms")),
    ]
    return [column for column in shown if column.name in ALWAYS or set(column.cells) != {"-"}]


def to_markdown(table: AblationTable) -> str:
    """Format as a GitHub table with the conclusion above it and the notes below."""
    notes = [f"- {markdown(one_line(note, 1000))}" for note in table.notes]
    effects = ["", effects_to_markdown(table.effects).rstrip("\n")] if table.effects is not None else []
    lines = [*markdown_table(columns_of(table)), "", markdown(table.conclusion), "", *notes, *effects, ""]
    return "\n".join([f"**{markdown(table.title)}**", "", *lines])


def to_latex(table: AblationTable) -> str:
    r"""Format what the comparison rests on as a booktabs table no wider than the line, pure ASCII.

    The conclusion and the notes are comments above it. It needs `\usepackage{booktabs}`, and `\usepackage{tabularx}` where a
    name is long. Costs are in the LaTeX of `paper_grid`, latencies, effect sizes and verdicts in words in the other forms.
    """
    columns = [column for column in columns_of(table, plus_minus=r"\pm") if column.name not in NOT_IN_LATEX]
    comments = [f"% {latex(one_line(text, 1000))}" for text in (table.title, table.conclusion, *table.notes)]
    return "\n".join([*comments, *latex_tabular(columns, NUMBERS), ""])


def to_csv(table: AblationTable) -> str:
    """Format the numbers at full precision, one line for each arm, with the columns `DATA_COLUMNS`."""
    return table.data.to_csv(index=False, lineterminator="\n")


def render_text(table: AblationTable, width: int = TEXT_WIDTH) -> str:
    """Format for a terminal: the aligned table, a line for each verdict, the conclusion, the notes.

    Long names break into several lines; verdicts and p-values stand below the table because they would make it too wide.
    """
    every = columns_of(table)
    columns = [column for column in every if column.name not in BELOW]
    taken = sum(widest(column) + 2 for column in columns if column.name != "arm")
    limits = {"arm": max(NARROWEST_ARM, width - taken), "missing": MISSING_WIDTH}
    lines = plain_table(columns, limits, width)
    verdicts = verdict_lines(table, every)
    if verdicts:
        lines += ["", "Against the baseline", *(filled(text, width, "  ") for text in verdicts)]
    lines += [
        "",
        filled(table.conclusion, width),
        "",
        "Notes",
        *(filled(one_line(note, 1000), width, "  ") for note in table.notes),
    ]
    effects = ["", effects_text(table.effects, width).rstrip("\n")] if table.effects is not None else []
    return "\n".join([table.title, "", *lines, *effects, ""])


def verdict_lines(table: AblationTable, columns: list[Column]) -> list[str]:
    """Say of each row its verdict, and in brackets what that rests on: "stage4: better than the baseline (p = 0.01)"."""
    below = {column.name: column.cells for column in columns}
    corrected = "" if table.judging.correction == "none" else "corrected "
    lines = []
    rows: list[Any] = list(table.data.itertuples(index=False))
    for number, row in enumerate(rows):
        if pd.isna(row.verdict):
            continue
        facts = [f"{corrected}{p_is(row.p_corrected)}"] if pd.notna(row.p_corrected) else []
        for name, title in (("wilcoxon", "Wilcoxon"), ("equivalence", "equivalence")):
            value = getattr(row, f"{name}_p_corrected")
            facts += [f"{title} {p_is(value)}"] if pd.notna(value) else []
        facts += [
            f"{title} {below[name][number]}"
            for name, title in TITLED
            if below.get(name, ["-"] * len(rows))[number] != "-"
        ]
        lines.append(f"{one_line(row.arm, 400)}: {row.verdict}" + (f" ({', '.join(facts)})" if facts else ""))
    return lines


def widest(column: Column) -> int:
    """Width of a column in plain text."""
    width = max(map(len, (column.title, *column.cells)))
    return min(width, MISSING_WIDTH) if column.name == "missing" else width
