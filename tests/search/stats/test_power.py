"""Power of the paired t test: known answers, and functions that invert each other."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from search.stats.paired import difference
from search.stats.power import (
    MAX_SEEDS,
    effect_size,
    exaggerations,
    hedges_factor,
    minimum_detectable_difference,
    power,
    seeds_needed,
)


def test_known_answers() -> None:
    """Cohen 1988 and G*Power: d_z of 0.2, 0.5, 0.8 take 199, 34 and 15 pairs for 80% power at 5%."""
    assert [seeds_needed(d, 1.0) for d in (0.2, 0.5, 0.8)] == [199, 34, 15]
    assert power(0.5, 1.0, 34) == pytest.approx(0.8078, abs=1e-4)


@given(st.floats(0.1, 20), st.integers(2, 40), st.sampled_from([0.05, 0.01, 0.05 / 6]))
@settings(max_examples=25)
def test_the_detectable_difference_has_the_power_asked_for(sd: float, n: int, alpha: float) -> None:
    difference = minimum_detectable_difference(sd, n, alpha=alpha)
    assert power(difference, sd, n, alpha=alpha) == pytest.approx(0.8, abs=1e-4)
    assert difference == pytest.approx(sd * minimum_detectable_difference(1.0, n, alpha=alpha), rel=1e-6)


@given(st.floats(0.2, 20), st.floats(0.1, 5))  # from a 25th of the sd: below, more than MAX_SEEDS may be needed
@settings(max_examples=25)
def test_no_fewer_seeds_would_do(difference: float, sd: float) -> None:
    n = seeds_needed(difference, sd)
    assert n is not None
    assert power(difference, sd, n) >= 0.8
    assert n == 2 or power(difference, sd, n - 1) < 0.8
    assert seeds_needed(-difference, sd) == n


@pytest.mark.parametrize("n", [2, 3, 5])
def test_power_grows_with_the_difference_also_where_scipy_gives_up(n: int) -> None:
    values = [power(10**k, 1.0, n) for k in (-1, 0, 1, 1.3, 1.6, 2, 3, 6)]
    assert all(later >= earlier - 1e-6 for earlier, later in itertools.pairwise(values))
    assert values[-1] == pytest.approx(1)


def test_a_difference_of_nothing_is_never_settled() -> None:
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(0.001, 1.0) is None
    assert (seeds_needed(0.0285, 1.0) or 0) <= MAX_SEEDS
    assert power(0.0, 1.0, 5) == pytest.approx(0.05)


def test_faults_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least 2 seeds, got 1"):
        power(1.0, 1.0, 1)
    for sd in (0.0, float("nan")):
        with pytest.raises(ValueError, match="standard deviation of the difference must be a number above zero"):
            minimum_detectable_difference(sd, 5)
    with pytest.raises(ValueError, match=r"between alpha \(0.05\) and 1, got 1"):
        seeds_needed(1.0, 1.0, target=1)
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1, got 0"):
        seeds_needed(1.0, 1.0, alpha=0)


@pytest.mark.parametrize(
    ("d_z", "n", "alpha"), [(0.3, 5, 0.05), (1.0, 5, 0.0125), (2.0, 5, 0.0125), (0.5, 20, 0.05), (1.0, 2, 0.05)]
)
def test_simulated_studies_exaggerate_by_that_factor(d_z: float, n: int, alpha: float) -> None:
    rng = np.random.default_rng(20261129)
    deltas = rng.normal(d_z, 1, (400_000, n))
    means = deltas.mean(axis=1)
    found = np.abs(stats.ttest_1samp(deltas, 0, axis=1).pvalue) <= alpha
    sizes = np.abs(means[found]) / d_z
    error = sizes.std() / np.sqrt(found.sum())
    assert exaggerations(np.array([d_z]), np.array([n]), alpha=alpha)[0] == pytest.approx(sizes.mean(), abs=4 * error)


def test_it_is_that_of_gelman_and_carlin_where_the_spread_is_known() -> None:
    """Their example: a true effect of 2 at a standard error of 8.1 is found 9.7 times too large, by their simulation."""
    n = 100_000  # so many that the spread is as good as known
    assert exaggerations(np.array([2 / 8.1 / np.sqrt(n)]), np.array([n]))[0] == pytest.approx(9.7, abs=0.2)


@given(st.floats(0.01, 5), st.integers(2, 60), st.floats(0.001, 0.2))
@settings(deadline=None, max_examples=50)
def test_less_is_exaggerated_more(d_z: float, n: int, alpha: float) -> None:
    smaller, larger = exaggerations(np.array([d_z, 1.5 * d_z]), np.array([n, n]), alpha=alpha)
    assert smaller >= larger - 1e-3
    assert larger > 0.999


def test_what_has_no_factor_is_refused() -> None:
    for d_z, n, alpha in ((0.0, 5, 0.05), (1.0, 1, 0.05), (1.0, 5, 0.0)):
        with pytest.raises(ValueError, match="not zero, at least 2 seeds"):
            exaggerations(np.array([d_z]), np.array([n]), alpha=alpha)


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
