"""Are two arms the same for practical purposes? Two one-sided tests against a margin that the user states.

"No difference was found" is not "there is none": only a test against a margin can say the second (Schuirmann 1987).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from search.stats.paired import has_spread, paired_values

__all__ = ["DIFFERENT", "EQUIVALENT", "NOT_SHOWN", "NO_SPREAD", "TOO_FEW", "Equivalence", "equivalence"]

EQUIVALENT = "equivalent within the margin"
DIFFERENT = "differs by more than the margin"
NOT_SHOWN = "equivalence not shown"
NO_SPREAD = "same difference on every seed: no spread to judge by"
TOO_FEW = "too few seeds"


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
        margin: smallest difference that matters, above zero, in the unit of the metric (points for top-1). It must be
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
