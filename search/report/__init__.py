"""What is read: `runs/` alone becomes data frames, statistics and tables. No torch in here.

    >>> from search.report import ablation_table, load_study, render_text   # doctest: +SKIP
    >>> print(render_text(ablation_table(load_study("runs/digits"))))       # doctest: +SKIP

The names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.report.ablation import AblationTable, ablation_table
    from search.report.effects import effects_table
    from search.report.judging import Judging
    from search.report.pivot import pivot_table
    from search.report.reading.load import load_study
    from search.report.render import render_text, to_csv, to_html, to_latex, to_markdown
    from search.report.spec import TableSpec
    from search.report.table import Table
    from search.report.values import paired_difference
    from search.report.write import write_tables
    from search.stats.effects import factorial_effects
    from search.stats.inference import equivalence
    from search.stats.paired import PairedDifference, verdict
    from search.stats.ranking import proxy_trust
    from search.stats.sequential import plan_looks, sequential_verdicts

_NAMES = {
    "search.report.ablation": ("AblationTable", "ablation_table"),
    "search.report.effects": ("effects_table",),
    "search.report.judging": ("Judging",),
    "search.report.pivot": ("pivot_table",),
    "search.report.reading.load": ("load_study",),
    "search.report.render": ("render_text", "to_csv", "to_html", "to_latex", "to_markdown"),
    "search.report.spec": ("TableSpec",),
    "search.report.table": ("Table",),
    "search.report.values": ("paired_difference",),
    "search.report.write": ("write_tables",),
    "search.stats.effects": ("factorial_effects",),
    "search.stats.inference": ("equivalence",),
    "search.stats.paired": ("PairedDifference", "verdict"),
    "search.stats.ranking": ("proxy_trust",),
    "search.stats.sequential": ("plan_looks", "sequential_verdicts"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "AblationTable",
    "Judging",
    "PairedDifference",
    "Table",
    "TableSpec",
    "ablation_table",
    "effects_table",
    "equivalence",
    "factorial_effects",
    "load_study",
    "paired_difference",
    "pivot_table",
    "plan_looks",
    "proxy_trust",
    "render_text",
    "sequential_verdicts",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
    "verdict",
    "write_tables",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
