"""What is said of the rows of a table beside their paired t tests: corrections over rows, second opinions, and what the seeds can tell.

- "holm" holds the chance of even one false finding in the table (family-wise error; Holm 1979).
- "bonferroni" holds the same with less power; intervals at 1 - alpha / m leave out zero exactly where p is at most alpha.
- "bh" holds the expected share of false ones among the findings (Benjamini and Hochberg 1995).
- "none" holds nothing over the table.

Holm and Bonferroni hold under any dependence between rows (they share a baseline). BH is proved for positive dependence; for
two-sided tests against a shared baseline it is not, and the simulated tables of docs/results/statistics_truth.md show what it does.

The bootstrap is a second opinion on the shape of the differences, not on their size: at the five or nine seeds of a usual study
its 95% intervals cover the truth less often than 95% (the same page). "No difference was found" is not "there is none": only a
test against a margin can say the second (Schuirmann 1987).

Where power is low, a difference is found only in those studies in which noise has enlarged it: what is found is then larger
than the truth on average, however honest each test is (type M error, Gelman and Carlin 2014).
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy import special, stats
from scipy.optimize import brentq
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import ttest_power
from statsmodels.stats.weightstats import DescrStatsW

Correction = Literal["holm", "bonferroni", "bh", "none"]
METHOD = {"holm": "holm", "bonferroni": "bonferroni", "bh": "fdr_bh"}  # the names statsmodels has for them
FEWEST_FOR_BOOTSTRAP = 3  # two differences have three distinct resamples: no distribution to take quantiles of
MAX_SEEDS = 10_000
"""Beyond this many seeds `seeds_needed` says None: the difference is too small to be settled by training."""
NODES = 128  # of the quadrature over the spread that a study happens to measure; more change the fifth digit at most


def adjusted_p_values(p_values: pd.Series[float], correction: Correction = "holm") -> pd.Series[float]:
    """Correct p-values over the rows of a table: a row is a finding at alpha where its value is at most alpha.

    A row that could not be tested is NaN, stays so and does not count towards the number of rows, since nothing can be found in it.
    ValueError for an unknown correction, or a p-value outside 0 to 1.
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
    """Return the error that a correction surely leaves to each single row of a table, of `alpha` over the whole of it.

    Under Holm and Bonferroni alpha / m for m tested rows, under BH R alpha / m for R findings (at least one), else alpha.
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

    None below three seeds, and where the method is not defined for these differences, which are not all the same.
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

    The differences are of two seeds or more and not all the same; the margin is the smallest that matters, chosen beforehand.
    """
    return float(DescrStatsW(deltas, ddof=0).ttost_mean(-margin, margin)[0])


def powers(d_z: np.ndarray, n: np.ndarray, alpha: float) -> np.ndarray:
    """Compute the power at each effect (in units of the sd, not negative) and its number of seeds."""
    values = np.asarray(ttest_power(d_z, n, alpha, alternative="two-sided"), dtype=float)
    unknown = ~np.isfinite(values)
    if unknown.any():
        values = values.copy()
        values[unknown] = _large_effect_powers(d_z[unknown], n[unknown], alpha)
    return values


def _large_effect_powers(d_z: np.ndarray, n: np.ndarray, alpha: float) -> np.ndarray:
    """Compute the power where statsmodels has none (NaN), which happens at large effects.

    SciPy cannot compute the other tail there, which is below Phi(-d_z sqrt(n)): it is left out. Above about 38 standard
    errors it cannot compute this one either; there the error of the mean is negligible beside that of the spread.
    """
    degrees, noncentrality = n - 1, d_z * np.sqrt(n)
    critical = stats.t.isf(alpha / 2, degrees)
    values = np.asarray(stats.nct.sf(critical, degrees, noncentrality), dtype=float)
    beyond = stats.chi2.cdf(degrees * (noncentrality / critical) ** 2, degrees)
    return np.where(np.isfinite(values), values, beyond)


def minimum_detectable_difference(sd: float, n: int, *, alpha: float = 0.05, target: float = 0.8) -> float:
    """Return the smallest true difference, in the unit of `sd`, that n paired seeds find with power `target`.

    It is as uncertain as `sd`, that of the paired difference, is: at 5 seeds the true sd may be 0.6 to 2.9 times the one measured.
    ValueError for an sd that is not above zero, n < 2, an alpha (of the two-sided test) outside 0 to 1, or a target that is no power.
    """
    if not (sd > 0 and math.isfinite(sd)):
        raise ValueError(f"the standard deviation of the difference must be a number above zero, got {sd}")
    if n < 2:
        raise ValueError(f"a paired t test needs at least 2 seeds, got {n}")
    _check_target(alpha, target)
    return sd * _detectable_effect(n, alpha, target)


@cache
def _detectable_effect(n: int, alpha: float, target: float) -> float:
    """Compute the detectable difference in units of the sd; the rows of a table mostly share it."""

    def missing(d_z: float) -> float:
        return float(powers(np.array([d_z]), np.array([float(n)]), alpha)[0]) - target

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return float(brentq(missing, 0.0, high, xtol=1e-10))


def seeds_needed(d_z: np.ndarray, *, alpha: float = 0.05, target: float = 0.8) -> list[int | None]:
    """Return for each row the fewest paired seeds that find a true difference with power `target`; None above `MAX_SEEDS`.

    Args:
        d_z: the smallest difference that would matter to the reader, in units of the sd of the paired difference. Never the
            measured one: a row is undecided because that number is mostly noise, and what would be needed at 5 seeds for a true
            92 comes out between 9 and 6,875. Zero and NaN are never found.
    """
    _check_target(alpha, target)
    effects = np.abs(np.asarray(d_z, dtype=float))
    known = effects > 0  # NaN is not
    low, high = np.ones(len(effects)), np.full(len(effects), MAX_SEEDS + 1.0)  # one seed is never enough
    while (going := known & (high - low > 1)).any():
        middle, enough = np.floor((low + high) / 2), np.zeros(len(effects), dtype=bool)
        enough[going] = powers(effects[going], middle[going], alpha) >= target
        high, low = np.where(going & enough, middle, high), np.where(going & ~enough, middle, low)
    return [int(n) if there and n <= MAX_SEEDS else None for n, there in zip(high, known, strict=True)]


def sd_interval(sd: np.ndarray, n: np.ndarray, *, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return between which ends the true sd lies, given the one that n seeds show (chi-squared; normal differences)."""
    degrees, tail = np.asarray(n, dtype=float) - 1, (1 - confidence) / 2
    squares = degrees * np.asarray(sd, dtype=float) ** 2
    return np.sqrt(squares / stats.chi2.isf(tail, degrees)), np.sqrt(squares / stats.chi2.ppf(tail, degrees))


def _check_target(alpha: float, target: float) -> None:
    """Refuse a power that is trivial or never reached."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}; 0.05 is usual")
    if not alpha < target < 1:
        raise ValueError(f"the power asked for must lie between alpha ({alpha}) and 1, got {target}; 0.8 is usual")


def exaggerations(d_z: np.ndarray, n: np.ndarray, *, alpha: float = 0.05) -> np.ndarray:
    """Return by what factor the differences that are found exceed the true one on average, in absolute value.

    E[|measured| given p <= alpha] / |true|, at least nearly 1. Gelman and Carlin take the standard error as known. Here each study
    measures its own, as a t test does. `d_z` is the true mean difference in units of the sd of the paired difference, not zero.
    """
    shift = np.abs(np.asarray(d_z, dtype=float)) * np.sqrt(n)  # in standard errors of the mean
    degrees = np.asarray(n, dtype=float) - 1
    if not (shift > 0).all() or (degrees < 1).any() or not 0 < alpha < 1:
        raise ValueError(
            "exaggeration needs true differences that are not zero, at least 2 seeds and an alpha between 0 and 1, got "
            f"d_z {d_z}, n {n}, alpha {alpha}"
        )
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    share = ((nodes + 1) / 2) ** 3  # finer where the measured spread is small, which is where little is found
    weights = weights / 2 * 3 * ((nodes + 1) / 2) ** 2
    each, row = np.unique(degrees, return_inverse=True)  # the rows of a table mostly share them, and quantiles are slow
    spread = np.sqrt(stats.chi2.ppf(share[None, :], each[:, None]) / each[:, None])[row]  # measured over true sd
    limit = stats.t.isf(alpha / 2, degrees)[:, None] * spread
    shift = shift[:, None]
    above, below = limit - shift, limit + shift
    upper, lower = special.ndtr(-above), special.ndtr(-below)
    density = (np.exp(-above * above / 2) + np.exp(-below * below / 2)) / np.sqrt(2 * np.pi)
    found, size = upper + lower, shift * (upper - lower) + density
    return np.asarray((size @ weights) / (found @ weights) / shift[:, 0], dtype=float)


def hedges_factor(degrees: int) -> float:
    """Return Hedges' exact correction for `degrees` (at least 2) degrees of freedom (Hedges 1981, equation 6e)."""
    if degrees < 2:
        raise ValueError(f"Hedges' factor needs at least 2 degrees of freedom (3 seeds), got {degrees}")
    half = degrees / 2
    return float(np.exp(special.gammaln(half) - special.gammaln(half - 0.5)) / np.sqrt(half))
