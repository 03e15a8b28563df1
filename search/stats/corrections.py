"""Many rows, one table: p-values corrected over its rows, and intervals that belong to the correction.

- "holm" holds the chance of even one false finding in the table (family-wise error; Holm 1979). Its intervals are
  Bonferroni's: m intervals at 1 - alpha / m that cover all together.
- "bonferroni" holds the same with less power; its intervals leave out zero exactly where p is at most alpha.
- "bh" holds the expected share of false ones among the findings (Benjamini and Hochberg 1995). Its intervals are at
  1 - R alpha / m for R findings (false coverage rate; Benjamini and Yekutieli 2005): exact agreement again.
- "none" holds nothing over the table; its intervals are at 1 - alpha.

Holm has no simultaneous two-sided intervals that are both bounded and always agree with it, so it gets Bonferroni's: where
such an interval leaves out zero, Holm finds the row too; where Holm finds a row whose interval holds zero, `agrees` says
False: the row differs, but its simultaneous interval does not say in which direction. Holm and Bonferroni hold under any
dependence between rows (they share a baseline). BH is proved for positive dependence; for two-sided tests against a
shared baseline it is not, and the simulated tables of docs/results/statistics_truth.md show what it does there.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

Correction = Literal["holm", "bonferroni", "bh", "none"]

METHOD = {"holm": "holm", "bonferroni": "bonferroni", "bh": "fdr_bh"}  # the names statsmodels has for them


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


def simultaneous_intervals(rows: pd.DataFrame, correction: Correction = "holm", *, alpha: float = 0.05) -> pd.DataFrame:
    """Compute t intervals that belong to a correction.

    Args:
        rows: columns "n" (seeds), "mean", "sd" (of the difference, n - 1 in the denominator) and "p_value"; NaN where a
            row could not be tested.
        correction: which error is held.
        alpha: the error that is allowed over the whole table.

    Returns:
        With the index of `rows`: "p_adjusted"; "finding" (p_adjusted at most alpha); "level", the confidence level of
        each single interval; "low" and "high", NaN where a row could not be tested; "agrees", whether the interval
        leaves out zero exactly where there is a finding.

    Raises:
        ValueError: an unknown correction, or an alpha that is no probability.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}; 0.05 is usual")
    adjusted = adjusted_p_values(rows["p_value"], correction)
    tested = adjusted.notna()
    finding = adjusted <= alpha
    error = error_of_a_row(adjusted, correction, alpha=alpha)
    n, mean, sd = (rows[name].to_numpy(dtype=float, na_value=np.nan) for name in ("n", "mean", "sd"))
    with np.errstate(invalid="ignore", divide="ignore"):
        margin = np.where(tested, stats.t.ppf(1 - error / 2, n - 1) * sd / np.sqrt(n), np.nan)
    low, high = mean - margin, mean + margin
    return pd.DataFrame(
        {
            "p_adjusted": adjusted,
            "finding": finding,
            "level": 1 - error,
            "low": low,
            "high": high,
            "agrees": ((low > 0) | (high < 0)) == finding,
        },
        index=rows.index,
    )


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
