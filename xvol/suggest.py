"""The part of an error message that says what was meant and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["suggest"]


def suggest(given: str, allowed: Iterable[str], *, shown: int = 12) -> str:
    """Say which of the allowed names `given` comes near to, and list them.

    Args:
        given: the name that was not found.
        allowed: the names there are.
        shown: how many of them are listed at most.

    Example:
        >>> suggest("psa", ["conv", "pssa"])
        "did you mean 'pssa'? Allowed: conv, pssa"
    """
    names = list(allowed)
    if not names:
        return "there are none to choose from"
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    more = f", and {len(names) - shown} more" if len(names) > shown else ""
    return f"{hint}Allowed: {', '.join(names[:shown])}{more}"
