"""Paired differences: algebra that must hold, agreement with SciPy, and words that claim no more than the numbers."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from search.report.values import median
from search.stats.nested import differences
from search.stats.paired import ArmValues, PairedDifference, difference, verdict

PERCENT = st.floats(0, 100).map(lambda value: round(value, 3))
PAIRS = st.lists(st.tuples(PERCENT, PERCENT), min_size=2, max_size=12)


def series(values: list[float], seeds: list[int] | None = None) -> pd.Series[float]:
    return pd.Series(values, index=seeds or list(range(len(values))), dtype=float)


def numbers(result: PairedDifference) -> tuple[float, float, float, float]:
    assert result.mean is not None
    assert result.sd is not None
    assert result.low is not None
    assert result.high is not None
    return result.mean, result.sd, result.low, result.high


def two(pairs: list[tuple[float, float]]) -> tuple[pd.Series[float], pd.Series[float]]:
    """Two arms whose differences have a spread that is not rounding."""
    first, second = series([a for a, _ in pairs]), series([b for _, b in pairs])
    assume(float((first - second).std()) > 1e-6)
    return first, second


@given(PAIRS)
def test_antisymmetric(pairs: list[tuple[float, float]]) -> None:
    first, second = two(pairs)
    mean, sd, low, high = numbers(difference(first, second))
    assert numbers(difference(second, first)) == pytest.approx((-mean, sd, -high, -low), abs=1e-9)


@given(PAIRS, st.lists(PERCENT, min_size=12, max_size=12))
def test_what_a_seed_does_to_both_arms_cancels(pairs: list[tuple[float, float]], shifts: list[float]) -> None:
    first, second = two(pairs)
    shift = series(shifts[: len(pairs)])
    assert numbers(difference(first + shift, second + shift)) == pytest.approx(
        numbers(difference(first, second)), rel=1e-6, abs=1e-8
    )


@given(PAIRS)
def test_agrees_with_scipy(pairs: list[tuple[float, float]]) -> None:
    first, second = two(pairs)
    test = stats.ttest_rel(first, second)
    interval = test.confidence_interval(0.95)
    result = difference(first, second)
    assert numbers(result)[2:] == pytest.approx((interval.low, interval.high))
    assert result.p_value == pytest.approx(test.pvalue)
    assert (result.low <= 0 <= result.high) == (result.p_value >= 0.05)  # type: ignore[operator]


@given(st.permutations(range(6)))
def test_order_of_seeds_does_not_matter(order: list[int]) -> None:
    first, second = series([61.0, 62.5, 60.2, 63.3, 61.1, 60.0]), series([60.1, 62.6, 59.0, 62.0, 61.9, 58.8])
    assert difference(first.iloc[order], second) == difference(first, second)


def test_a_published_example() -> None:
    """Student 1908: hours of sleep gained by ten patients under two drugs; 95% interval 0.70 to 2.46, p = 0.00283."""
    one = series([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
    other = series([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    result = difference(other, one)
    assert result.mean == pytest.approx(1.58)
    assert (result.low, result.high) == pytest.approx((0.7001, 2.4599), abs=1e-4)
    assert result.p_value == pytest.approx(0.00283, abs=1e-5)


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        seed = rng.normal(0, 3, 5)
        result = difference(series(list(61 + seed + rng.normal(0.5, 1, 5))), series(list(61 + seed)))
        _, _, low, high = numbers(result)
        covered += low <= 0.5 <= high
    assert 930 <= covered <= 970


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_seeds(n: int) -> None:
    result = difference(series([61.0] * n), series([60.0] * n))
    assert (result.n, result.mean, result.sd) == (n, 1.0 if n else None, None)
    assert (result.low, result.high, result.p_value) == (None, None, None)
    assert verdict(result) == f"too few seeds (n={n})"


def test_only_shared_seeds_are_compared() -> None:
    result = difference(series([61.0, 62.0, 99.0], [0, 1, 7]), series([60.0, 60.5, 1.0], [0, 1, 8]))
    assert (result.n, result.mean) == (2, 1.25)


@pytest.mark.parametrize(
    ("delta", "words"),
    [(0.0, "equal to the baseline on every seed"), (0.1, "same difference on every seed: no spread to judge by")],
)
def test_no_spread_gives_no_interval(delta: float, words: str) -> None:
    base = series([60.1, 70.2, 80.3])
    result = difference(base + delta, base)
    assert (result.sd, result.low, result.p_value) == (0.0, None, None)
    assert result.mean == pytest.approx(delta)
    assert verdict(result) == words


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "words"),
    [
        (0.1, 2.0, True, "better than the baseline"),
        (0.1, 2.0, False, "worse than the baseline"),
        (-2.0, -0.1, True, "worse than the baseline"),
        (-2.0, -0.1, False, "better than the baseline"),
        (-0.1, 2.0, True, "cannot be told from seed noise"),
        (0.0, 2.0, True, "cannot be told from seed noise"),
    ],
)
def test_verdict(low: float, high: float, higher_is_better: bool, words: str) -> None:
    result = PairedDifference(n=5, mean=(low + high) / 2, sd=1.0, low=low, high=high, p_value=0.05)
    assert verdict(result, higher_is_better=higher_is_better) == words


def test_cells_without_a_finite_value_are_missing() -> None:
    first = series([61.0, 62.5, math.nan, math.inf, 61.1])
    second = series([60.1, 62.6, 59.0, 62.0, math.nan])
    assert difference(first, second) == difference(first[:2], second[:2])


def test_a_seed_that_occurs_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="the arm has more than one value for seed 3: keep one of them"):
        difference(series([1.0, 2.0], [3, 3]), series([1.0], [3]))


def test_another_confidence() -> None:
    first, second = series([61.0, 62.5, 60.2]), series([60.1, 62.6, 59.0])
    interval = stats.ttest_rel(first, second).confidence_interval(0.99)
    assert numbers(difference(first, second, confidence=0.99))[2:] == pytest.approx((interval.low, interval.high))


NUMBER = st.sampled_from([60.0, 60.5, 61.25, 59.0, 0.0])
SERIES = st.dictionaries(st.integers(0, 5), NUMBER)


def arm(values: dict[int, float]) -> ArmValues:
    seeds = np.array(sorted(values), dtype=np.int64)
    numbers = np.array([values[seed] for seed in sorted(values)], dtype=float)
    nothing = dict.fromkeys(("params", "macs", "latency_ms", "latency_fused_ms", "latency_exclusive"))
    return ArmValues(
        values=numbers,
        seeds=seeds,
        failed=seeds[:0],
        all_seeds=seeds,
        statuses=["ok"] * len(seeds),
        **nothing,  # type: ignore[arg-type]
    )


def by_seed(values: dict[int, float]) -> pd.Series:  # type: ignore[type-arg]
    return pd.Series(values, dtype=float, index=pd.Index(list(values), dtype="int64")).sort_index()


@settings(deadline=None, max_examples=40)
@given(arms=st.lists(SERIES, min_size=1, max_size=5), reference=SERIES)
def test_each_is_the_difference_of_two_by_seed(arms: list[dict[int, float]], reference: dict[int, float]) -> None:
    found = differences([arm(values) for values in arms], arm(reference))
    for result, values in zip(found, arms, strict=True):
        expected = difference(by_seed(values), by_seed(reference))
        for ours, theirs in zip(astuple(result), astuple(expected), strict=True):
            assert ours == (None if theirs is None else pytest.approx(theirs, rel=1e-9, abs=1e-12))


@given(st.lists(NUMBER, max_size=6))
def test_median(values: list[float]) -> None:
    found = median(np.array([*values, np.nan], dtype=float))
    assert found == (float(np.median(values)) if values else None)
