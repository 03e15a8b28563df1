"""What is read: `runs/` alone becomes data frames, statistics and tables. No torch in here.

    >>> from search.report import ablation_table, load_study, render_text   # doctest: +SKIP
    >>> print(render_text(ablation_table(load_study("runs/digits"))))       # doctest: +SKIP

The names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.report.effects.table import effects_table
    from search.report.export import render_text, to_csv, to_latex, to_markdown
    from search.report.judging import Judging
    from search.report.reading.load import load_study
    from search.report.table import AblationTable, ablation_table
    from search.report.values import paired_difference
    from search.report.write import write_tables
    from search.stats.effects import factorial_effects
    from search.stats.inference import RowOptions, equivalence, row_statistics
    from search.stats.paired import PairedDifference, verdict
    from search.stats.ranking import proxy_trust
    from search.stats.sequential import plan_looks, sequential_verdicts

__all__ = [
    "AblationTable",
    "Judging",
    "PairedDifference",
    "RowOptions",
    "ablation_table",
    "effects_table",
    "equivalence",
    "factorial_effects",
    "load_study",
    "paired_difference",
    "plan_looks",
    "proxy_trust",
    "render_text",
    "row_statistics",
    "sequential_verdicts",
    "to_csv",
    "to_latex",
    "to_markdown",
    "verdict",
    "write_tables",
]

_HOME = {
    "AblationTable": "table",
    "Judging": "judging",
    "PairedDifference": "search.stats.paired",
    "RowOptions": "search.stats.inference",
    "ablation_table": "table",
    "effects_table": "effects.table",
    "equivalence": "search.stats.inference",
    "factorial_effects": "search.stats.effects",
    "load_study": "reading.load",
    "paired_difference": "values",
    "plan_looks": "search.stats.sequential",
    "proxy_trust": "search.stats.ranking",
    "render_text": "export",
    "row_statistics": "search.stats.inference",
    "sequential_verdicts": "search.stats.sequential",
    "to_csv": "export",
    "to_latex": "export",
    "to_markdown": "export",
    "verdict": "search.stats.paired",
    "write_tables": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME[name]
    return getattr(import_module(home if home.startswith("search.") else f"{__name__}.{home}"), name)
