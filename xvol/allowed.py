"""What a name, number or option may be, and what is said of one that is not allowed: its range, the names there are, which was meant."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

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
    """Raise ValueError where a number is not finite or lies outside of its range: from `low`, `above`, to `high`, `below`.

    `null` says what None stands for, where it is allowed.
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


@dataclass(frozen=True)
class Rule:
    """What the values of one option must be: in words, as in "rank=0 must be WORDS", and whether a value is so."""

    must: str
    holds: Callable[[object], bool]

    def or_none(self, stands_for: str) -> Rule:
        """The same, but None is allowed too, which stands for something."""
        return Rule(f"{self.must}, or None for {stands_for}", lambda value: value is None or self.holds(value))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_ratio(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def among(values: Iterable[object]) -> Rule:
    """One of a few values."""
    allowed = tuple(values)
    said = f"one of {', '.join(map(repr, allowed))}"
    return Rule(said, lambda value: not isinstance(value, bool) and value in allowed)


WHOLE = Rule("a whole number of at least 1", _is_whole)
ODD = Rule("an odd whole number of at least 1", lambda value: _is_whole(value) and value % 2 == 1)  # type: ignore[operator]
RATIO = Rule("a number above 0, such as 0.25", _is_ratio)
FLAG = Rule("True or False", lambda value: isinstance(value, bool))
# What is asked of an option that has no rule of its own, by the type of its default.
OF_A_TYPE = {
    bool: FLAG,
    int: Rule("a whole number", lambda value: type(value) is int),
    float: Rule("a number", lambda value: type(value) in (float, int)),
    str: Rule("text", lambda value: type(value) is str),
}
