"""What is said of the rows of a table beside their paired t tests: corrections over rows, bootstrap, signed ranks, equivalence.

- "holm" holds the chance of even one false finding in the table (family-wise error; Holm 1979).
- "bonferroni" holds the same with less power; intervals at 1 - alpha / m leave out zero exactly where p is at most alpha.
- "bh" holds the expected share of false ones among the findings (Benjamini and Hochberg 1995).
- "none" holds nothing over the table.

Holm and Bonferroni hold under any dependence between rows (they share a baseline). BH is proved for positive dependence; for
two-sided tests against a shared baseline it is not, and the simulated tables of docs/results/statistics_truth.md show what it does.

The bootstrap is a second opinion on the shape of the differences, not on their size: at the five or nine seeds of a usual study
its 95% intervals cover the truth less often than 95% (the same page). "No difference was found" is not "there is none": only a
test against a margin can say the second (Schuirmann 1987).
"""

from __future__ import annotations

import warnings
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

Correction = Literal["holm", "bonferroni", "bh", "none"]
METHOD = {"holm": "holm", "bonferroni": "bonferroni", "bh": "fdr_bh"}  # the names statsmodels has for them
FEWEST_FOR_BOOTSTRAP = 3  # two differences have three distinct resamples: no distribution to take quantiles of


def adjusted_p_values(p_values: pd.Series[float], correction: Correction = "holm") -> pd.Series[float]:
    """Correct p-values over the rows of a table.

    Args:
        p_values: one for each row; NaN where a row could not be tested. Such a row stays NaN and does not count towards
            the number of rows, since nothing can be found in it.
        correction: which error is held.

    Returns:
        Adjusted p-values with the index of `p_values`: a row is a finding at alpha where its value is at most alpha.

    Raises:
        ValueError: an unknown correction, or a p-value outside 0 to 1.
    """
    check(correction)
    values = p_values.to_numpy(dtype=float, na_value=np.nan)
    tested = ~np.isnan(values)
    if ((values[tested] < 0) | (values[tested] > 1)).any():
        raise ValueError(f"p-values must lie between 0 and 1, got {values[tested].min()} to {values[tested].max()}")
    adjusted = values.copy()
    if tested.any() and correction != "none":
        adjusted[tested] = multipletests(values[tested], method=METHOD[correction])[1]
    return pd.Series(adjusted, index=p_values.index, dtype=float)


def error_of_a_row(adjusted: pd.Series[float], correction: Correction = "holm", *, alpha: float = 0.05) -> float:
    """Return the error that a correction surely leaves to each single row of a table.

    Under Holm and Bonferroni alpha / m for m tested rows, under BH R alpha / m for R findings (at least one), else alpha.

    Args:
        adjusted: as `adjusted_p_values` returns them.
        correction: the one they were adjusted by.
        alpha: the error that is allowed over the whole table.
    """
    check(correction)
    m = max(int(adjusted.notna().sum()), 1)
    findings = max(int((adjusted <= alpha).sum()), 1)
    return {"none": alpha, "holm": alpha / m, "bonferroni": alpha / m, "bh": alpha * findings / m}[correction]


def check(correction: str) -> None:
    """Refuse a correction that is not offered."""
    if correction not in get_args(Correction):
        raise ValueError(f"unknown correction '{correction}'; corrections: {', '.join(get_args(Correction))}")


def bootstrap_interval(
    deltas: np.ndarray, *, method: Literal["BCa", "percentile"] = "BCa", resamples: int = 9999, seed: int = 0
) -> tuple[float, float] | None:
    """Compute a 95% bootstrap interval of the mean of paired differences (Efron and Tibshirani 1993, chapters 13 and 14).

    Args:
        deltas: not all the same; float64 (seeds,).

    Returns:
        None below three seeds, and where the method is not defined for these differences.
    """
    if len(deltas) < FEWEST_FOR_BOOTSTRAP:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a degenerate distribution shows as NaN, which is answered below
        interval = stats.bootstrap(
            (deltas,), np.mean, n_resamples=resamples, method=method, rng=np.random.default_rng(seed)
        ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    return (low, high) if np.isfinite([low, high]).all() else None


def wilcoxon_p_value(deltas: np.ndarray) -> float | None:
    """Test the signed ranks of paired differences (Wilcoxon 1945), two-sided.

    Exact up to 50 seeds; where ranks are tied, by permutation up to 13 seeds and by the normal approximation beyond.
    At n seeds no p-value is below 2 ** (1 - n): five seeds never come below 0.0625. None below two seeds, and where no
    seed shows a difference. Unlike the t test it has an answer where all seeds show the same difference.
    """
    if len(deltas) < 2 or not np.any(deltas):
        return None
    return float(stats.wilcoxon(deltas).pvalue)


def equivalence_p_value(deltas: np.ndarray, margin: float) -> float:
    """Return the larger p-value of two one-sided t tests of paired differences against -margin and +margin.

    Args:
        deltas: not all the same; float64 (seeds,), two or more.
        margin: smallest difference that matters, above zero, chosen before the numbers are seen.
    """
    return float(DescrStatsW(deltas, ddof=0).ttost_mean(-margin, margin)[0])
