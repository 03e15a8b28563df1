"""What was meant by a name that is not there, and what is allowed: the part of an error message that says so."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CLOSE = 0.85  # nobody meant another one


def nearest(given: object, allowed: Iterable[str], count: int = 3) -> list[str]:
    """The allowed names that `given` comes near to, best first, at most `count`."""
    names = list(allowed)
    near = difflib.get_close_matches(str(given), names, n=count, cutoff=0.5)
    return near or [name for name in names if name.lower() == str(given).lower()]


def meant(given: object, allowed: Iterable[str]) -> str:
    """`; did you mean X?` where something allowed comes near to what was given, else nothing."""
    near = nearest(given, allowed)
    if near and difflib.SequenceMatcher(None, str(given), near[0]).ratio() > CLOSE:
        near = near[:1]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def suggest(given: str, allowed: Iterable[str], *, shown: int = 12) -> str:
    """Say which of the allowed names `given` comes near to, and list `shown` of them at most.

    Example:
        >>> suggest("psa", ["conv", "pssa"])
        "did you mean 'pssa'? Allowed: conv, pssa"
    """
    names = list(allowed)
    if not names:
        return "there are none to choose from"
    near = nearest(given, names)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    more = f", and {len(names) - shown} more" if len(names) > shown else ""
    return f"{hint}Allowed: {', '.join(names[:shown])}{more}"
