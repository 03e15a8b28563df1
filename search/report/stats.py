"""Is the difference real? Paired differences over seeds, and what may be said of them in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from search.report.arms import find_arm, list_arms

__all__ = ["CONFIDENCE", "PairedDifference", "difference", "paired_difference", "verdict"]

CONFIDENCE = 0.95

BETTER = "better than the baseline"
WORSE = "worse than the baseline"
UNDECIDED = "cannot be told from seed noise"
EQUAL = "equal to the baseline on every seed"
CONSTANT = "same difference on every seed: no spread to judge by"


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Arm minus baseline, over the seeds that both finished. What is not defined is None.

    Attributes:
        n: number of seeds that both finished.
        mean: mean difference, in the unit of the metric; None at n = 0.
        sd: standard deviation of the difference (n - 1 in the denominator); None at n < 2.
        low, high: two-sided 95% t interval of the mean difference; None at n < 2, and where every seed shows the same
            difference: a spread of zero comes from coarse measurements, and an interval of width zero would claim a
            certainty nobody has.
        p_value: two-sided paired t test against zero; None where the interval is.
    """

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    p_value: float | None


def difference(arm: pd.Series[float], baseline: pd.Series[float]) -> PairedDifference:
    """Compare two series that are indexed by seed, on the seeds both have."""
    seeds = arm.index.intersection(baseline.index).sort_values()
    first, second = arm.loc[seeds].to_numpy(dtype=float), baseline.loc[seeds].to_numpy(dtype=float)
    deltas = first - second
    n = len(deltas)
    mean = float(deltas.mean()) if n else None
    sd = float(deltas.std(ddof=1)) if n > 1 else None
    undefined = PairedDifference(n=n, mean=mean, sd=sd, low=None, high=None, p_value=None)
    if sd is None:
        return undefined
    rounding = 1e-12 * float(np.abs(np.concatenate([first, second])).max())
    if sd <= rounding:
        return PairedDifference(n=n, mean=mean, sd=0.0, low=None, high=None, p_value=None)
    test = stats.ttest_rel(first, second)
    interval = test.confidence_interval(CONFIDENCE)
    return PairedDifference(
        n=n, mean=mean, sd=sd, low=float(interval.low), high=float(interval.high), p_value=float(test.pvalue)
    )


def paired_difference(frame: pd.DataFrame, arm: str, baseline: str, metric: str) -> PairedDifference:
    """Compare an arm with the baseline on the seeds that both finished (status ok), each seed once.

    Args:
        frame: rows of `load_study`, all of one phase.
        arm: name or architecture hash of the arm.
        baseline: name or architecture hash of what it is compared with.
        metric: a numeric column, e.g. "test_top1".

    Raises:
        ValueError: unknown arm, baseline or column; a frame of several phases; arms trained by different recipes.
    """
    if metric not in frame.columns:
        raise ValueError(f"metric '{metric}' is no column of the frame; columns: {', '.join(frame.columns)}")
    arms = list_arms(frame)
    one, other = find_arm(arms, arm), find_arm(arms, baseline)
    if one.recipe_hash != other.recipe_hash:
        raise ValueError(
            f"'{one.label}' was trained by recipe {one.recipe_hash} and '{other.label}' by {other.recipe_hash}: a "
            "difference would mix the two causes; compare arms of one recipe"
        )
    return difference(one.values(metric), other.values(metric))


def verdict(result: PairedDifference, *, higher_is_better: bool = True) -> str:
    """Say in words what a paired difference allows to be said."""
    if result.n < 2:
        return f"too few seeds (n={result.n})"
    if result.low is None or result.high is None:
        return EQUAL if math.isclose(result.mean or 0.0, 0.0, abs_tol=1e-9) else CONSTANT
    if result.low <= 0 <= result.high:
        return UNDECIDED
    return BETTER if (result.low > 0) == higher_is_better else WORSE
