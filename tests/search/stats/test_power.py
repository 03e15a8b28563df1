"""Power of the paired t test: known answers, and functions that invert each other."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.stats.power import MAX_SEEDS, minimum_detectable_difference, power, seeds_needed


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
