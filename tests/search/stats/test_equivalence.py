"""Two one-sided tests: published answers, the rule of the interval, and no verdict where there is none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from search.stats.equivalence import DIFFERENT, EQUIVALENT, NO_SPREAD, NOT_SHOWN, TOO_FEW, equivalence

# The "clinic" data that statsmodels tests its own two one-sided tests with, against R's equivalence::tost(eps=0.6).
FIRST = [2.84, 2.51, 2.41, 2.95, 3.14, 3.79, 4.14, 3.85, 3.02, 3.45, 5.37, 3.81, 4.19, 3.16, 3.84]
FIRST_AFTER = [2.60, 2.82, 2.18, 3.46, 4.01, 3.04, 3.47, 4.06, 2.91, 3.59, 4.51, 3.16, 3.86, 3.31, 3.02]
SECOND = [4.0, 3.26, 4.14, 3.42, 3.25, 4.34, 4.97, 4.31, 3.11, 3.41, 5.02, 4.21, 4.59, 5.3, 4.32]
SECOND_AFTER = [3.76, 3.66, 3.65, 3.6, 3.48, 2.87, 3.24, 3.92, 3.99, 4.21, 4.21, 3.31, 3.61, 2.97, 2.73]

PAIRS = st.lists(st.tuples(*[st.floats(0, 20).map(lambda value: round(value, 2))] * 2), min_size=2, max_size=10)


@pytest.mark.parametrize(
    ("before", "after", "p_value", "interval", "words"),
    [
        (SECOND, SECOND_AFTER, 0.4412034046017588, (0.1261653305099018, 0.999168002823431), NOT_SHOWN),
        (FIRST, FIRST_AFTER, 0.003166881489265175, (-0.0744336620516462, 0.4037669953849797), EQUIVALENT),
    ],
)
def test_published_answers(
    before: list[float], after: list[float], p_value: float, interval: tuple[float, float], words: str
) -> None:
    result = equivalence(pd.Series(before), pd.Series(after), 0.6)
    assert result.p_value == pytest.approx(p_value, abs=1e-12)
    assert (result.low, result.high) == pytest.approx(interval, abs=1e-12)
    assert result.verdict == words


@given(PAIRS, st.floats(0.1, 20), st.floats(-30, 30))
def test_equivalent_exactly_where_the_interval_lies_inside(
    pairs: list[tuple[float, float]], margin: float, shift: float
) -> None:
    arm, base = pd.Series([a for a, _ in pairs]), pd.Series([b for _, b in pairs])
    assume(float((arm - base).std()) > 0.01)
    result = equivalence(arm, base, margin)
    assert result.low is not None
    assert result.high is not None
    assert result.p_value is not None
    assume(min(abs(abs(result.low) - margin), abs(abs(result.high) - margin)) > 1e-6)
    assert (result.verdict == EQUIVALENT) == (-margin < result.low and result.high < margin)
    assert (result.verdict == DIFFERENT) == (result.low > margin or result.high < -margin)
    assert equivalence(arm + shift, base + shift, margin).p_value == pytest.approx(result.p_value, rel=1e-4, abs=1e-9)
    assert equivalence(base, arm, margin).p_value == pytest.approx(result.p_value)
    assert (equivalence(arm, base, margin * 2).p_value or 0) <= result.p_value + 1e-12


def test_missing_seeds_are_left_out() -> None:
    arm, base = pd.Series([1.0, 2.0, 3.0, np.nan]), pd.Series([1.1, 2.0, 2.9, 9.0])
    assert equivalence(arm, base, 1.0) == equivalence(arm[:3], base[:3], 1.0)


@pytest.mark.parametrize(("n", "words"), [(0, TOO_FEW), (1, TOO_FEW), (3, NO_SPREAD)])
def test_no_verdict_without_a_spread(n: int, words: str) -> None:
    base = pd.Series([60.0, 61.0, 62.0][:n], dtype=float)
    result = equivalence(base, base, 0.5)
    assert (result.verdict, result.p_value, result.low) == (words, None, None)


@pytest.mark.parametrize("margin", [0.0, -1.0, np.nan, np.inf])
def test_the_margin_must_be_stated(margin: float) -> None:
    with pytest.raises(ValueError, match="margin must be a number above zero"):
        equivalence(pd.Series([1.0]), pd.Series([1.0]), margin)


def test_alpha() -> None:
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and 0\.5, got 0\.5"):
        equivalence(pd.Series([1.0]), pd.Series([1.0]), 1.0, alpha=0.5)
