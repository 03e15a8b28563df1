"""The harness around `xvol`: spaces, studies, trials, the ledger and the tables. Importing it is cheap (no torch).

    >>> import search
    >>> frame = search.load_study("runs/digits")   # doctest: +SKIP

`load_study`, and `compare`, which makes a table of any frame of runs, are loaded on first use: they need pandas, and no torch.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.report.given import compare
    from search.report.reading.load import load_study

_HOMES = {"compare": "report.given", "load_study": "report.reading.load"}
__all__ = ["compare", "load_study"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve_name(f"search.{_HOMES[name]}:{name}")
