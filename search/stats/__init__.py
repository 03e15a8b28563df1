"""Statistics: numbers in, numbers out; nothing of a folder, a trial or torch.

What commands ask for that must answer at once is loaded on first use: SciPy, statsmodels and pandas take a second.
"""

# ruff: noqa: F401  (what is imported for types is what is handed out)
from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.stats.inference import minimum_detectable_difference, seeds_needed
    from search.stats.nested import over_roots
    from search.stats.ranking import on_front
    from search.stats.sequential import plan_looks

_HOMES = {
    "minimum_detectable_difference": "inference",
    "seeds_needed": "inference",
    "over_roots": "nested",
    "on_front": "ranking",
    "plan_looks": "sequential",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve_name(f"search.stats.{_HOMES[name]}:{name}")
