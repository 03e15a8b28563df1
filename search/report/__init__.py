"""What is read: `runs/` alone becomes data frames, statistics and tables. No torch in here.

    >>> from search.report import ablation_table, load_study, render_text   # doctest: +SKIP
    >>> print(render_text(ablation_table(load_study("runs/digits"))))       # doctest: +SKIP

The names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.report.export import render_text, to_csv, to_latex, to_markdown
    from search.report.load import load_study
    from search.report.stats import PairedDifference, paired_difference, verdict
    from search.report.table import AblationTable, ablation_table
    from search.report.write import write_tables

__all__ = [
    "AblationTable",
    "PairedDifference",
    "ablation_table",
    "load_study",
    "paired_difference",
    "render_text",
    "to_csv",
    "to_latex",
    "to_markdown",
    "verdict",
    "write_tables",
]

_HOME = {
    "AblationTable": "table",
    "PairedDifference": "stats",
    "ablation_table": "table",
    "load_study": "load",
    "paired_difference": "stats",
    "render_text": "export",
    "to_csv": "export",
    "to_latex": "export",
    "to_markdown": "export",
    "verdict": "stats",
    "write_tables": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
