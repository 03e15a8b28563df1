"""Is the difference real? Paired differences over seeds, and what may be said of them in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from search.report.arms import comparable, find_arm, list_arms
from search.report.declared import declared_by

__all__ = [
    "ALPHA",
    "CONFIDENCE",
    "PairedDifference",
    "difference",
    "has_spread",
    "paired_difference",
    "paired_values",
    "pairing",
    "verdict",
]

CONFIDENCE = 0.95
ALPHA = 0.05
"""Error that a table allows: of any false finding, or as its correction defines it."""

BETTER = "better than the baseline"
WORSE = "worse than the baseline"
AHEAD = "ahead of the baseline"  # where a training failed on some seeds: on those that are left
BEHIND = "behind the baseline"
UNDECIDED = "cannot be told from seed noise"
AFTER_CORRECTION = "not told from seed noise after correction"
EQUAL = "equal to the baseline on every seed"
CONSTANT = "same difference on every seed: no spread to judge by"


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Arm minus baseline, over the seeds that both finished. What is not defined is None.

    Attributes:
        n: number of seeds that both finished.
        mean: mean difference, in the unit of the metric; None at n = 0.
        sd: standard deviation of the difference (n - 1 in the denominator); None at n < 2.
        low, high: two-sided t interval of the mean difference, 95% unless asked otherwise; None at n < 2, and where
            every seed shows the same difference: a spread of zero comes from coarse measurements, and an interval of
            width zero would claim a certainty nobody has.
        p_value: two-sided paired t test against zero; None where the interval is.
        correlation: of arm and baseline over the seeds; None at n < 3, and where one of them has no spread.
        variance_ratio: variance of the difference if the seeds were not paired, over that of the paired one: how many
            times the seeds independent runs would take for the same certainty; None where `correlation` is.
    """

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    p_value: float | None
    correlation: float | None = None
    variance_ratio: float | None = None


def paired_values(arm: pd.Series[float], baseline: pd.Series[float]) -> pd.DataFrame:
    """Put the values of two arms side by side, on the seeds where both have a finite one.

    Args:
        arm, baseline: values of finished trials, indexed by seed. What failed or was pruned must not be in them; NaN
            and infinite values count as missing.

    Returns:
        Columns "arm" and "baseline" (float64), indexed by seed in ascending order.

    Raises:
        ValueError: a seed occurs twice in one series, so that nobody knows which of its values is meant.
    """
    for name, values in (("arm", arm), ("baseline", baseline)):
        if not values.index.is_unique:
            twice = sorted(set(values.index[values.index.duplicated()]))
            raise ValueError(
                f"the {name} has more than one value for seed {', '.join(map(str, twice))}: keep one of them"
            )
    pairs = pd.concat({"arm": arm, "baseline": baseline}, axis=1, join="inner").astype(float)
    return pairs[np.isfinite(pairs.to_numpy()).all(axis=1)].sort_index()


def has_spread(pairs: pd.DataFrame) -> bool:
    """Tell whether the differences of `paired_values` differ from seed to seed by more than floating-point rounding."""
    deltas = (pairs["arm"] - pairs["baseline"]).to_numpy()
    return len(deltas) > 1 and float(deltas.std(ddof=1)) > 1e-12 * float(np.abs(pairs.to_numpy()).max())


def pairing(arm: np.ndarray, baseline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute what pairing by seed bought; see `PairedDifference`.

    Args:
        arm, baseline: values of the shared seeds, float64 (rows, seeds).

    Returns:
        Correlation and ratio of variances, each (rows,); NaN below 3 seeds, and where a row has no spread in one of them.
    """
    rows, n = arm.shape
    if n < 3:
        return np.full(rows, np.nan), np.full(rows, np.nan)
    variances = arm.var(axis=1, ddof=1), baseline.var(axis=1, ddof=1), (arm - baseline).var(axis=1, ddof=1)
    smallest = 1e-24 * np.maximum(np.abs(arm), np.abs(baseline)).max(axis=1) ** 2  # below it is rounding
    spread = np.minimum.reduce(variances) > smallest
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = (variances[0] + variances[1] - variances[2]) / 2 / np.sqrt(variances[0] * variances[1])
        ratio = (variances[0] + variances[1]) / variances[2]
    return np.where(spread, np.clip(correlation, -1, 1), np.nan), np.where(spread, ratio, np.nan)


def difference(
    arm: pd.Series[float], baseline: pd.Series[float], *, confidence: float = CONFIDENCE
) -> PairedDifference:
    """Compare two series that are indexed by seed, on the seeds both have.

    Args:
        arm, baseline: as in `paired_values`.
        confidence: of the interval, between 0 and 1.
    """
    pairs = paired_values(arm, baseline)
    deltas = (pairs["arm"] - pairs["baseline"]).to_numpy()
    n = len(deltas)
    mean = float(deltas.mean()) if n else None
    sd = float(deltas.std(ddof=1)) if n > 1 else None
    if not has_spread(pairs):
        return PairedDifference(n=n, mean=mean, sd=None if sd is None else 0.0, low=None, high=None, p_value=None)
    test = stats.ttest_rel(pairs["arm"].to_numpy(), pairs["baseline"].to_numpy())
    interval = test.confidence_interval(confidence)
    bought = (each[0] for each in pairing(pairs[["arm"]].to_numpy().T, pairs[["baseline"]].to_numpy().T))
    correlation, ratio = (None if np.isnan(value) else float(value) for value in bought)
    return PairedDifference(
        n=n,
        mean=mean,
        sd=sd,
        low=float(interval.low),
        high=float(interval.high),
        p_value=float(test.pvalue),
        correlation=correlation,
        variance_ratio=ratio,
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
    arms = list_arms(frame, declared_by(frame))
    one, other = find_arm(arms, arm), find_arm(arms, baseline)
    if not comparable(one, other):
        raise ValueError(
            f"'{one.label}' was trained by recipe {one.recipe_hash} and '{other.label}' by {other.recipe_hash}: a "
            "difference would mix the two causes; compare arms of one recipe"
        )
    return difference(one.values(metric), other.values(metric))


def verdict(result: PairedDifference, *, higher_is_better: bool = True, p_corrected: float | None = None) -> str:
    """Say in words what a paired difference allows to be said.

    Args:
        result: the row.
        higher_is_better: which direction is an improvement.
        p_corrected: p-value of the row, corrected over its table; None for a row that stands alone. An interval of a single
            row that leaves out zero is then no finding yet: it is one where the corrected p-value is at most 5%.
    """
    if result.n < 2:
        return f"too few seeds (n={result.n})"
    if result.low is None or result.high is None:
        return EQUAL if math.isclose(result.mean or 0.0, 0.0, abs_tol=1e-9) else CONSTANT
    if result.low <= 0 <= result.high:
        return UNDECIDED
    if p_corrected is not None and p_corrected > ALPHA:
        return AFTER_CORRECTION
    return BETTER if (result.low > 0) == higher_is_better else WORSE
