"""The harness around `xvol`: spaces, studies, trials, the ledger and the tables. Importing it is cheap (no torch).

    >>> import search
    >>> frame = search.load_study("runs/digits")   # doctest: +SKIP

`load_study` is loaded on first use: it needs pandas, and no torch.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.report.reading.load import load_study

__all__ = ["load_study"]


def __getattr__(name: str) -> Any:
    if name != "load_study":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve_name(f"search.report.reading.load:{name}")
