"""One way to say what is allowed, and what was meant: of a number, of a choice, of a name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

__all__ = ["check_choice", "check_number", "meant"]

CLOSE = 0.85  # nobody meant another one


def meant(given: object, allowed: Iterable[str]) -> str:
    """`; did you mean X?` where something allowed comes near to what was given, else nothing."""
    names = list(allowed)
    near = difflib.get_close_matches(str(given), names, n=3, cutoff=0.5)
    if near and difflib.SequenceMatcher(None, str(given), near[0]).ratio() > CLOSE:
        near = near[:1]
    near = near or [name for name in names if name.lower() == str(given).lower()]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def check_choice(key: str, given: object, allowed: Iterable[str]) -> None:
    """Raise ValueError where `given` is none of the names that are allowed."""
    names = list(allowed)
    if given not in names:
        raise ValueError(f"{key}={given}: allowed are {', '.join(names)}{meant(given, names)}")


def check_number(
    key: str,
    given: float | None,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    null: str = "",
) -> None:
    """Raise ValueError where a number is not finite or lies outside of its range.

    Args:
        low, above: least number, itself allowed or not.
        high, below: largest number, itself allowed or not.
        null: what None stands for, where it is allowed.
    """
    if given is None and null:
        return
    if (
        given is not None
        and math.isfinite(given)
        and (low is None or given >= low)
        and (above is None or given > above)
        and (high is None or given <= high)
        and (below is None or given < below)
    ):
        return
    ends = [
        f"{word} {end:g}"
        for word, end in (("at least", low), ("above", above), ("at most", high), ("below", below))
        if end is not None
    ]
    must = " and ".join(ends) or "a finite number"
    raise ValueError(
        f"{key}={given}: {'' if low is not None else 'must be '}{must}{f', or null for {null}' if null else ''}"
    )
