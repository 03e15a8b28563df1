"""Effect sizes: published values, and what does not change them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from search.stats.effect_size import effect_size, hedges_factor
from search.stats.paired import difference

VALUES = st.lists(st.tuples(*[st.floats(0, 100).map(lambda value: round(value, 2))] * 2), min_size=3, max_size=10)


def two(pairs: list[tuple[float, float]]) -> tuple[pd.Series[float], pd.Series[float]]:
    arm, base = pd.Series([a for a, _ in pairs]), pd.Series([b for _, b in pairs])
    assume(float((arm - base).std()) > 0.01)
    return arm, base


def test_hedges_factors_as_published() -> None:
    """Hedges 1981, table 1."""
    published = {2: 0.5642, 3: 0.7236, 4: 0.7979, 5: 0.8407, 10: 0.9228}
    assert {k: round(hedges_factor(k), 4) for k in published} == pytest.approx(published, abs=1e-4)
    with pytest.raises(ValueError, match="at least 2 degrees of freedom"):
        hedges_factor(1)


def test_a_published_example() -> None:
    """Student's sleep data: JASP and others give d = 1.285 with a 95% interval of 0.414 to 2.118."""
    one = pd.Series([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
    other = pd.Series([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    result = effect_size(other, one)
    assert (result.n, result.d_z, result.g_z) == (10, pytest.approx(1.285, abs=1e-3), pytest.approx(1.174, abs=1e-3))
    assert (result.low, result.high) == pytest.approx((0.4146, 2.1180), abs=1e-3)


@given(VALUES)
def test_the_interval_inverts_the_noncentral_t(pairs: list[tuple[float, float]]) -> None:
    arm, base = two(pairs)
    result = effect_size(arm, base)
    assert result.low is not None
    assert result.high is not None
    assert result.d_z is not None
    root = np.sqrt(result.n)
    if abs(result.d_z) < 5:
        assert stats.nct.sf(result.d_z * root, result.n - 1, result.low * root) == pytest.approx(0.025, abs=1e-4)
        assert stats.nct.cdf(result.d_z * root, result.n - 1, result.high * root) == pytest.approx(0.025, abs=1e-4)
    t = difference(arm, base)
    assert t.p_value is not None
    if abs(t.p_value - 0.05) > 1e-6:
        assert (result.low <= 0 <= result.high) == (t.p_value > 0.05)


@given(VALUES, st.floats(0.1, 10), st.floats(-50, 50))
def test_scale_and_shift_do_not_matter(pairs: list[tuple[float, float]], scale: float, shift: float) -> None:
    arm, base = two(pairs)
    here, there = effect_size(arm, base), effect_size(arm * scale + shift, base * scale + shift)
    assert (there.d_z, there.low, there.high) == pytest.approx((here.d_z, here.low, here.high), rel=1e-5, abs=1e-6)


@given(VALUES)
def test_antisymmetric(pairs: list[tuple[float, float]]) -> None:
    arm, base = two(pairs)
    here, there = effect_size(arm, base), effect_size(base, arm)
    assert there.d_z == pytest.approx(-here.d_z, abs=1e-12)  # type: ignore[operator]
    assert (there.low, there.high) == pytest.approx((-here.high, -here.low), rel=1e-6, abs=1e-6)  # type: ignore[operator]


@pytest.mark.parametrize("deltas", [[], [1.0], [1.0, 1.0, 1.0], [0.0, 0.0]])
def test_without_a_spread_there_is_none(deltas: list[float]) -> None:
    base = pd.Series([60.0, 61.0, 62.0][: len(deltas)], dtype=float)
    result = effect_size(base + deltas, base)
    assert (result.n, result.d_z, result.g_z, result.low, result.high) == (len(deltas), None, None, None, None)


def test_two_seeds_have_no_hedges_correction() -> None:
    result = effect_size(pd.Series([1.0, 2.0]), pd.Series([0.0, 0.0]))
    assert result.d_z == pytest.approx(1.5 / np.sqrt(0.5))
    assert result.g_z is None
