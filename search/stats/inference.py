"""What is said of a row beside its paired t test: bootstrap interval, signed ranks, equivalence.

The t interval is the default. The bootstrap is a second opinion on the shape of the differences, not on their size: at the
five or nine seeds of a usual study its 95% intervals cover the truth less often than 95% (docs/results/statistics_truth.md).

"No difference was found" is not "there is none": only a test against a margin can say the second (Schuirmann 1987).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from search.stats.paired import has_spread, paired_values

Bootstrap = Literal["BCa", "percentile"]

EQUIVALENT = "equivalent within the margin"
DIFFERENT = "differs by more than the margin"
NOT_SHOWN = "equivalence not shown"
NO_SPREAD = "same difference on every seed: no spread to judge by"
TOO_FEW = "too few seeds"
FEWEST_FOR_BOOTSTRAP = 3  # two differences have three distinct resamples: no distribution to take quantiles of


def bootstrap_interval(
    arm: pd.Series[float],
    baseline: pd.Series[float],
    *,
    method: Bootstrap = "BCa",
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> tuple[tuple[float, float] | None, str | None]:
    """Compute a bootstrap interval of the mean paired difference (Efron and Tibshirani 1993, chapters 13 and 14).

    Returns:
        The interval and None; or None and the reason why there is none.
    """
    if method not in ("BCa", "percentile"):
        raise ValueError(f"unknown bootstrap '{method}'; methods: BCa, percentile")
    pairs = paired_values(arm, baseline)
    if len(pairs) < FEWEST_FOR_BOOTSTRAP:
        return None, f"no bootstrap: {len(pairs)} shared seeds, {FEWEST_FOR_BOOTSTRAP} are the fewest"
    if not has_spread(pairs):
        return None, "no bootstrap: the difference is the same on every seed"
    deltas = (pairs["arm"] - pairs["baseline"]).to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a degenerate distribution shows as NaN, which is answered below
        interval = stats.bootstrap(
            (deltas,),
            np.mean,
            confidence_level=confidence,
            n_resamples=resamples,
            method=method,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    if not (np.isfinite(low) and np.isfinite(high)):
        return None, f"no bootstrap: the {method} correction is not defined for these differences; percentile is"
    return (low, high), None


def wilcoxon_p_value(arm: pd.Series[float], baseline: pd.Series[float]) -> float | None:
    """Test the signed ranks of the differences (Wilcoxon 1945), two-sided.

    Exact up to 50 seeds; where ranks are tied, by permutation up to 13 seeds and by the normal approximation beyond.
    At n seeds no p-value is below 2 ** (1 - n): five seeds never come below 0.0625. None below two seeds, and where no
    seed shows a difference. Unlike the t test it has an answer where all seeds show the same difference.
    """
    pairs = paired_values(arm, baseline)
    deltas = (pairs["arm"] - pairs["baseline"]).to_numpy()
    if len(deltas) < 2 or not np.any(deltas):
        return None
    return float(stats.wilcoxon(deltas).pvalue)


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """What two one-sided tests say of a paired difference. What is not defined is None.

    Attributes:
        n: seeds that both finished.
        margin: smallest difference that matters, in the unit of the metric; the region is -margin to +margin.
        mean: mean difference, arm minus baseline.
        low, high: t interval at 1 - 2 alpha (90% for 5%): inside the region exactly where equivalence is shown.
        p_value: the larger of the two one-sided p-values; correct it over rows as any other.
        verdict: EQUIVALENT, DIFFERENT (the interval lies outside the region), NOT_SHOWN, NO_SPREAD or TOO_FEW.
    """

    n: int
    margin: float
    mean: float | None
    low: float | None
    high: float | None
    p_value: float | None
    verdict: str


def equivalence(
    arm: pd.Series[float], baseline: pd.Series[float], margin: float, *, alpha: float = 0.05
) -> Equivalence:
    """Test whether an arm equals the baseline within a margin, on the seeds both have.

    Args:
        arm, baseline: values of finished trials, indexed by seed.
        margin: smallest difference that matters, above zero, in the unit of the metric. It must be
            chosen before the numbers are seen.
        alpha: chance that is allowed of calling arms equivalent which differ by the margin or more.

    Raises:
        ValueError: a margin that is not above zero, or an alpha outside 0 to 0.5.
    """
    if not (margin > 0 and math.isfinite(margin)):
        raise ValueError(
            f"the margin must be a number above zero in the unit of the metric, got {margin}; e.g. 0.2 points"
        )
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie between 0 and 0.5, got {alpha}; 0.05 is usual")
    pairs = paired_values(arm, baseline)
    deltas = (pairs["arm"] - pairs["baseline"]).to_numpy()
    n, mean = len(deltas), float(deltas.mean()) if len(deltas) else None
    if not has_spread(pairs):
        words = TOO_FEW if n < 2 else NO_SPREAD
        return Equivalence(n=n, margin=margin, mean=mean, low=None, high=None, p_value=None, verdict=words)
    p_value = float(ttost_paired(pairs["arm"].to_numpy(), pairs["baseline"].to_numpy(), -margin, margin)[0])
    interval = stats.ttest_1samp(deltas, 0).confidence_interval(1 - 2 * alpha)
    low, high = float(interval.low), float(interval.high)
    if p_value < alpha:
        words = EQUIVALENT
    else:
        words = DIFFERENT if low >= margin or high <= -margin else NOT_SHOWN
    return Equivalence(n=n, margin=margin, mean=mean, low=low, high=high, p_value=p_value, verdict=words)
