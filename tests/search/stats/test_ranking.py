"""Trust in a proxy: SciPy's example, what a ranking is blind to, and no number where there is no ranking."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from search.stats.ranking import ProxyTrust, proxy_trust

DISTINCT = st.lists(st.integers(0, 99), min_size=3, max_size=10, unique=True)


def ranking(values: list[float]) -> pd.Series[float]:
    return pd.Series(values, index=[f"arm{position}" for position in range(len(values))], dtype=float)


def test_the_example_of_scipy() -> None:
    """The documentation of scipy.stats.kendalltau: tau -0.4714, p 0.2827."""
    result = proxy_trust(ranking([12, 2, 1, 12, 2]), ranking([1, 4, 7, 1, 0]), resamples=200)
    assert (result.tau, result.p_value) == pytest.approx((-0.47140452079103173, 0.2827454599327748))


def test_overlap_and_regret() -> None:
    cheap = ranking([50, 40, 30, 20, 10, 5])
    expensive = ranking([60, 62, 50, 61, 40, 30])
    result = proxy_trust(cheap, expensive, k=3, resamples=200)
    assert result.top_k == ("arm0", "arm1")
    assert (result.overlap, result.overlap_by_chance) == (pytest.approx(2 / 3), 0.5)
    assert result.overlap_p == pytest.approx(10 / 20)  # 9 + 1 of the 20 ways to choose 3 of 6
    assert result.regret == 2.0  # arm0 won cheaply; arm1 is 2 better
    assert proxy_trust(-cheap, -expensive, k=3, higher_is_better=False, resamples=200) == result


@given(DISTINCT, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_only_ranks_count_and_order_of_arms_does_not(values: list[int], random: object) -> None:
    expensive = list(values)
    random.shuffle(expensive)  # type: ignore[attr-defined]
    one, other = ranking([float(v) for v in values]), ranking([float(v) for v in expensive])
    here = proxy_trust(one, other, resamples=50)
    assert replace(proxy_trust(one**3 + 7, other, resamples=50), regret=here.regret) == here
    assert proxy_trust(one[::-1], other, resamples=50) == here
    assert proxy_trust(one, -other, resamples=50).tau == pytest.approx(-here.tau)  # type: ignore[operator]
    if here.low is not None and here.high is not None:
        assert -1 <= here.low <= here.high <= 1


@pytest.mark.parametrize("digits", [0, 3])  # with ties and without
def test_the_interval_is_that_of_scipys_tau_resample_by_resample(digits: int) -> None:
    rng = np.random.default_rng(3)
    x = np.round(rng.normal(size=9), digits)
    y = np.round(x + rng.normal(size=9), digits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = stats.bootstrap(
            (x, y),
            lambda one, other: stats.kendalltau(one, other).statistic,
            paired=True,
            vectorized=False,
            n_resamples=150,
            rng=np.random.default_rng(0),
            method="percentile",
        ).bootstrap_distribution
    result = proxy_trust(ranking(list(x)), ranking(list(y)), resamples=150)
    assert (result.low, result.high) == pytest.approx(tuple(np.nanquantile(drawn, [0.025, 0.975])))


def test_the_interval_narrows_with_more_arms() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for n in (8, 80):
        x = rng.normal(size=n)
        result = proxy_trust(ranking(list(x)), ranking(list(x + rng.normal(size=n))), resamples=200)
        assert result.low is not None
        assert result.high is not None
        assert result.tau is not None
        assert result.low <= result.tau <= result.high
        widths.append(result.high - result.low)
    assert widths[1] < widths[0] / 2


def test_perfect_agreement_claims_no_certainty() -> None:
    values = ranking([5, 4, 3, 2, 1, 7, 9])
    for other, tau in ((values, 1.0), (-values, -1.0)):
        result = proxy_trust(values, other)
        assert (result.tau, result.low, result.high) == (tau, None, None)
        assert "every resample does too" in result.note


@pytest.mark.parametrize(
    ("cheap", "expensive", "note"),
    [
        ([1, 1, 1], [1, 2, 3], "all arms are tied in one ranking"),
        ([1], [1], "1 shared arms: 2 are the fewest to rank"),
        ([], [], "0 shared arms"),
        ([1, np.nan, np.inf], [1, 2, 3], "2 arms are in one ranking only; 1 shared arms"),
    ],
)
def test_no_order_no_number(cheap: list[float], expensive: list[float], note: str) -> None:
    result = proxy_trust(ranking(cheap), ranking(expensive))
    assert (result.tau, result.low, result.overlap, result.regret, result.top_k) == (None, None, None, None, ())
    assert note in result.note


def test_few_arms_and_ties_are_said() -> None:
    result = proxy_trust(ranking([4, 3, 3, 1]), ranking([4, 3, 1, 2]), k=2)
    assert isinstance(result, ProxyTrust)
    assert "no interval of tau: 4 arms, 5 are the fewest" in result.note
    assert "a tie at place 2 of the cheap ranking was broken by name" in result.note


def test_faults_of_the_caller() -> None:
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        proxy_trust(ranking([1, 2]), ranking([1, 2]), k=0)
    twice = pd.Series([1.0, 2.0], index=["a", "a"])
    with pytest.raises(ValueError, match="the cheap ranking has more than one value for a"):
        proxy_trust(twice, ranking([1, 2]))
