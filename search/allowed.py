"""One way to refuse a number that is out of its range, or a choice that there is not."""

from __future__ import annotations

import math
from collections.abc import Iterable

from xvol.suggest import meant


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
