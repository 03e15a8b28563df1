"""What is read: `runs/` alone becomes data frames, statistics and tables. No torch in here.

    >>> from search.report import ablation_table, load_study, render_text   # doctest: +SKIP
    >>> print(render_text(ablation_table(load_study("runs/digits"))))       # doctest: +SKIP

The names are loaded on first use, so that importing the package costs nothing.
"""

# ruff: noqa: F401  (what is imported for types is what is handed out)
from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.report.ablation import AblationTable, ablation_table
    from search.report.budget import budget_table
    from search.report.effects import effects_table
    from search.report.judging import Judging
    from search.report.mirror import mirror_study, study_tracker
    from search.report.page import page_at_the_end
    from search.report.page.write import write_page, write_plots
    from search.report.pivot import pivot_table
    from search.report.reading.load import load_study
    from search.report.render import render_text, to_csv, to_html, to_latex, to_markdown
    from search.report.spec import TableSpec
    from search.report.table import Table
    from search.report.values import paired_difference
    from search.report.write import write_interim, write_tables

_HOMES = {
    "ablation": ("AblationTable", "ablation_table"),
    "budget": ("budget_table",),
    "effects": ("effects_table",),
    "judging": ("Judging",),
    "mirror": ("mirror_study", "study_tracker"),
    "page": ("page_at_the_end",),
    "page.write": ("write_page", "write_plots"),
    "pivot": ("pivot_table",),
    "reading.load": ("load_study",),
    "render": ("render_text", "to_csv", "to_html", "to_latex", "to_markdown"),
    "spec": ("TableSpec",),
    "table": ("Table",),
    "values": ("paired_difference",),
    "write": ("write_interim", "write_tables"),
}
__all__ = [name for names in _HOMES.values() for name in names]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return resolve_name(f"search.report.{home}:{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
