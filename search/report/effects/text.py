"""A table of effects as text, Markdown, LaTeX and CSV, and its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from search.ledger.files import write_atomic
from search.report.effects.table import EffectsTable
from search.report.escape import latex, markdown
from search.report.layout import Column, filled, latex_tabular, markdown_table, plain_table
from search.report.words import interval_decimals, one_line, p_shown, signed

__all__ = ["EFFECT_FORMATS", "effects_text", "effects_to_markdown", "formatted", "save_effects"]

EFFECT_FORMATS = ("md", "tex", "csv")
TEXT_WIDTH = 120
P_TITLES = {"holm": "p (Holm)", "bonferroni": "p (Bonferroni)", "bh": "p (BH)", "none": "p"}


def columns_of(table: EffectsTable, repeat: str = "") -> list[Column]:
    """Round the numbers of a table for a reader; what is a whole term's stands in its first line alone."""
    rows: list[Any] = list(table.data.itertuples(index=False))
    intervals = [(row.ci_low, row.ci_high) for row in rows if pd.notna(row.ci_low)]
    digits = interval_decimals(intervals, table.metric.decimals)
    first = [number == 0 or row.term != rows[number - 1].term for number, row in enumerate(rows)]

    def of_term(texts: list[str]) -> list[str]:
        return [text if is_first else repeat for text, is_first in zip(texts, first, strict=True)]

    return [
        Column("term", "term", of_term([row.term for row in rows]), right=False),
        Column(
            "level",
            "level",
            [row.level if pd.isna(row.reference) else f"{row.level} against {row.reference}" for row in rows],
            right=False,
        ),
        Column("effect", f"effect, {table.metric.unit}", [signed(row.estimate, digits) for row in rows]),
        Column(
            "interval",
            "95% interval",
            [
                "-" if pd.isna(row.ci_low) else f"[{signed(row.ci_low, digits)}, {signed(row.ci_high, digits)}]"
                for row in rows
            ],
        ),
        Column(
            "f",
            "F",
            of_term(["-" if pd.isna(row.f) else f"{row.f:.3g} ({row.df}, {row.df_error})" for row in rows]),
        ),
        Column(
            "p",
            P_TITLES[table.correction],
            of_term(["-" if pd.isna(row.p_corrected) else p_shown(row.p_corrected) for row in rows]),
        ),
    ]


def effects_text(table: EffectsTable, width: int = TEXT_WIDTH) -> str:
    """Format for a terminal: the aligned table, what it allows to be said, the notes."""
    columns = columns_of(table)
    taken = sum(max(map(len, (column.title, *column.cells))) + 2 for column in columns[2:])
    names = max(width - taken - 2, 40)
    limits = {"term": names // 2, "level": names - names // 2}
    notes = [filled(one_line(note, 1000), width, "  ") for note in table.notes]
    lines = [
        *plain_table(columns, limits, width),
        "",
        filled(table.conclusion, width),
        "",
        "Notes on the effects",
        *notes,
    ]
    return "\n".join([table.title[:1].upper() + table.title[1:], "", *lines, ""])


def effects_to_markdown(table: EffectsTable) -> str:
    """Format as a GitHub table with the conclusion and the notes below."""
    notes = [f"- {markdown(one_line(note, 1000))}" for note in table.notes]
    title = markdown(table.title[:1].upper() + table.title[1:])
    return "\n".join(
        [f"**{title}**", "", *markdown_table(columns_of(table)), "", markdown(table.conclusion), "", *notes, ""]
    )


def effects_to_latex(table: EffectsTable) -> str:
    r"""Format as a booktabs `tabular`, pure ASCII, with the conclusion and the notes as comments above it.

    It needs `\usepackage{booktabs}`, and `\usepackage{tabularx}` where a name is long.
    """
    comments = [f"% {latex(one_line(text, 1000))}" for text in (table.title, table.conclusion, *table.notes)]
    tabular = latex_tabular(columns_of(table), ("effect", "interval"))
    return "\n".join([*comments, *tabular, ""])


def formatted(table: EffectsTable, form: str) -> str:
    """Format as "md", "tex" or "csv" (full precision, the columns `EFFECT_COLUMNS`), or as "all": plain text."""
    if form == "csv":
        return table.data.to_csv(index=False, lineterminator="\n")
    return {"md": effects_to_markdown, "tex": effects_to_latex, "all": effects_text}[form](table)


def save_effects(table: EffectsTable, folder: Path, forms: Sequence[str] = EFFECT_FORMATS) -> list[Path]:
    """Write `folder/effects.<form>` for each form, each whole or not at all, and return the paths.

    Raises:
        OSError: the files cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for form in forms:
        write_atomic(folder / f"effects.{form}", formatted(table, form))
    return [folder / f"effects.{form}" for form in forms]
