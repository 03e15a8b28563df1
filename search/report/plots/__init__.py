"""Plots of a study, each a function that returns a matplotlib figure, and `save`, which writes one.

    >>> from search.report import ablation_table, load_study, plots                    # doctest: +SKIP
    >>> table = ablation_table(load_study("runs/digits"))                              # doctest: +SKIP
    >>> plots.save(plots.forest(table), "forest.pdf")                                  # doctest: +SKIP

Beside each stands a function `<name>_data`, which returns the numbers that it shows. Both raise `NothingToShow`, a ValueError that says
why, in place of an empty picture. The names are loaded on first use: matplotlib takes half a second.
"""

# ruff: noqa: F401  (what is imported for types is what is handed out)
from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.report.plots.comparing import (
        forest,
        forest_data,
        front,
        front_data,
        heatmap,
        heatmap_data,
        trust,
        trust_data,
    )
    from search.report.plots.data import NothingToShow, PlotData
    from search.report.plots.drawing import save
    from search.report.plots.searching import (
        history,
        history_data,
        importance,
        importance_data,
        parallel,
        parallel_data,
    )
    from search.report.plots.training import curves, curves_data
    from search.report.plots.workers import timeline, timeline_data

_HOMES = {
    "comparing": ("forest", "forest_data", "heatmap", "heatmap_data", "front", "front_data", "trust", "trust_data"),
    "data": ("NothingToShow", "PlotData"),
    "drawing": ("save",),
    "searching": ("history", "history_data", "importance", "importance_data", "parallel", "parallel_data"),
    "training": ("curves", "curves_data"),
    "workers": ("timeline", "timeline_data"),
}
__all__ = [name for names in _HOMES.values() for name in names]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return resolve_name(f"{__name__}.{home}:{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
