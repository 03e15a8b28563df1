"""Power of the paired t test: known answers, and functions that invert each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from search.stats.power import (
    MAX_SEEDS,
    exaggerations,
    hedges_factor,
    minimum_detectable_difference,
    powers,
    seeds_needed,
)


def power(difference: float, sd: float, n: int, alpha: float = 0.05) -> float:
    return float(powers(np.array([difference / sd]), np.array([n]), alpha)[0])


def needed(difference: float, sd: float = 1.0) -> int | None:
    return seeds_needed(np.array([difference / sd]))[0]


def test_known_answers() -> None:
    """Cohen 1988 and G*Power: d_z of 0.2, 0.5, 0.8 take 199, 34 and 15 pairs for 80% power at 5%."""
    assert seeds_needed(np.array([0.2, 0.5, 0.8])) == [199, 34, 15]
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
    n = needed(difference, sd)
    assert n is not None
    assert power(difference, sd, n) >= 0.8
    assert n == 2 or power(difference, sd, n - 1) < 0.8
    assert needed(-difference, sd) == n


@pytest.mark.parametrize("n", [2, 3, 5])
def test_power_grows_with_the_difference_also_where_scipy_gives_up(n: int) -> None:
    values = [power(10**k, 1.0, n) for k in (-1, 0, 1, 1.3, 1.6, 2, 3, 6)]
    assert all(later >= earlier - 1e-6 for earlier, later in itertools.pairwise(values))
    assert values[-1] == pytest.approx(1)


def test_a_difference_of_nothing_is_never_settled() -> None:
    assert needed(0.0) is None
    assert needed(0.001) is None
    assert (needed(0.0285) or 0) <= MAX_SEEDS
    assert power(0.0, 1.0, 5) == pytest.approx(0.05)


def test_faults_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least 2 seeds, got 1"):
        minimum_detectable_difference(1.0, 1)
    for sd in (0.0, float("nan")):
        with pytest.raises(ValueError, match="standard deviation of the difference must be a number above zero"):
            minimum_detectable_difference(sd, 5)
    with pytest.raises(ValueError, match=r"between alpha \(0.05\) and 1, got 1"):
        seeds_needed(np.ones(1), target=1)
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1, got 0"):
        seeds_needed(np.ones(1), alpha=0)


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


def test_hedges_factors_as_published() -> None:
    """Hedges 1981, table 1."""
    published = {2: 0.5642, 3: 0.7236, 4: 0.7979, 5: 0.8407, 10: 0.9228}
    assert {k: round(hedges_factor(k), 4) for k in published} == pytest.approx(published, abs=1e-4)
    with pytest.raises(ValueError, match="at least 2 degrees of freedom"):
        hedges_factor(1)
