"""Rules that values of options keep; a refusal names the branch, the option, what was given and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from xvol.fold import NORMS


@dataclass(frozen=True)
class Rule:
    """What the values of one option must be.

    Attributes:
        must: in words, as in "rank=0 must be WORDS".
        holds: tells whether a value is so.
    """

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
NORM = Rule(
    f"one of {', '.join(map(repr, NORMS))}: a norm whose statistics are those of the sample at hand is no fixed map in eval mode, so "
    "it folds into no convolution",
    lambda value: value in NORMS,
)
