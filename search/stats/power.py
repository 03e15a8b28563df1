"""Size and power of paired differences: what a number of seeds resolves, how many settle a row, by how much findings exaggerate.

Where power is low, a difference is found only in those studies in which noise has enlarged it: what is found is then larger
than the truth on average, however honest each test is (type M error, Gelman and Carlin 2014).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy import special, stats
from scipy.optimize import brentq
from statsmodels.stats.power import ttest_power

MAX_SEEDS = 10_000
"""Beyond this many seeds `seeds_needed` says None: the difference is too small to be settled by training."""
NODES = 128  # of the quadrature over the spread that a study happens to measure; more change the fifth digit at most


def powers(d_z: np.ndarray, n: np.ndarray, alpha: float) -> np.ndarray:
    """Compute the power at each effect (in units of the sd, not negative) and its number of seeds."""
    values = np.asarray(ttest_power(d_z, n, alpha, alternative="two-sided"), dtype=float)
    unknown = ~np.isfinite(values)
    if unknown.any():
        values = values.copy()
        values[unknown] = large_effect_powers(d_z[unknown], n[unknown], alpha)
    return values


def large_effect_powers(d_z: np.ndarray, n: np.ndarray, alpha: float) -> np.ndarray:
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
    """Return the smallest true difference that n paired seeds find with power `target`.

    Args:
        sd: standard deviation of the paired difference over seeds, above zero.
        n: number of paired seeds, at least 2.
        alpha: error of the two-sided test.
        target: power asked for, between alpha and 1.

    Returns:
        A difference above zero in the unit of `sd`. It is as uncertain as `sd` is: at 5 seeds the true sd may be 0.6 to
        2.9 times the one measured.

    Raises:
        ValueError: an sd that is not above zero, n < 2, an alpha outside 0 to 1, or a target that is no power.
    """
    if not (sd > 0 and math.isfinite(sd)):
        raise ValueError(f"the standard deviation of the difference must be a number above zero, got {sd}")
    if n < 2:
        raise ValueError(f"a paired t test needs at least 2 seeds, got {n}")
    check_target(alpha, target)
    return sd * detectable_effect(n, alpha, target)


@cache
def detectable_effect(n: int, alpha: float, target: float) -> float:
    """Compute the detectable difference in units of the sd; the rows of a table mostly share it."""

    def missing(d_z: float) -> float:
        return float(powers(np.array([d_z]), np.array([float(n)]), alpha)[0]) - target

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return float(brentq(missing, 0.0, high, xtol=1e-10))


def seeds_needed(d_z: np.ndarray, *, alpha: float = 0.05, target: float = 0.8) -> list[int | None]:
    """Return for each row the fewest paired seeds that find a true difference with power `target`.

    The search starts at the number that normal theory gives, which is near, and steps out from there: large effects at
    thousands of seeds, where the noncentral t distribution cannot be computed, are never asked for.

    Args:
        d_z: the smallest difference that would matter to the reader, in units of the sd of the paired difference. Never the
            measured one: a row is undecided because that number is mostly noise, and what would be needed at 5 seeds for a true
            92 comes out between 9 and 6,875.
        alpha: error of the two-sided test.
        target: power asked for, between alpha and 1.

    Returns:
        None above `MAX_SEEDS`, and for a difference of zero or NaN.
    """
    check_target(alpha, target)
    effects = np.abs(np.asarray(d_z, dtype=float))
    z_alpha, z_power = float(stats.norm.isf(alpha / 2)), float(stats.norm.ppf(target))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        guess = np.ceil((z_alpha + z_power) ** 2 / effects**2 + z_alpha**2 / 2)
    known = effects > 0  # NaN is not
    low = np.ones(len(effects))  # one seed is never enough
    high = np.full(len(effects), np.inf)
    at = np.clip(np.where(known, guess, 2), 2, MAX_SEEDS)
    step = np.ones(len(effects))
    going = known.copy()
    while going.any():
        enough = np.zeros(len(effects), dtype=bool)
        enough[going] = powers(effects[going], at[going], alpha) >= target
        high = np.where(going & enough, at, high)
        low = np.where(going & ~enough, at, low)
        going &= (high - low > 1) & (low < MAX_SEEDS)
        bracketed = np.isfinite(high) & (low > 1)
        outwards = np.where(enough, np.maximum(at - step, 2), np.minimum(at + step, MAX_SEEDS))
        with np.errstate(invalid="ignore"):
            at = np.where(going, np.where(bracketed, np.floor((low + high) / 2), outwards), at)
        step = 2 * step
    return [int(n) if np.isfinite(n) and there else None for n, there in zip(high, known, strict=True)]


def sd_interval(sd: np.ndarray, n: np.ndarray, *, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return between which ends the true sd lies, given the one that n seeds show (chi-squared; normal differences).

    Args:
        sd: standard deviations of paired differences, (rows,).
        n: seeds behind each, at least 2, (rows,).
        confidence: of the interval.
    """
    degrees, tail = np.asarray(n, dtype=float) - 1, (1 - confidence) / 2
    squares = degrees * np.asarray(sd, dtype=float) ** 2
    return np.sqrt(squares / stats.chi2.isf(tail, degrees)), np.sqrt(squares / stats.chi2.ppf(tail, degrees))


def check_target(alpha: float, target: float) -> None:
    """Refuse a power that is trivial or never reached."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}; 0.05 is usual")
    if not alpha < target < 1:
        raise ValueError(f"the power asked for must lie between alpha ({alpha}) and 1, got {target}; 0.8 is usual")


def exaggerations(d_z: np.ndarray, n: np.ndarray, *, alpha: float = 0.05) -> np.ndarray:
    """Return by what factor the differences that are found exceed the true one on average, in absolute value.

    Gelman and Carlin take the standard error as known. Here each study measures its own, as a t test does.

    Args:
        d_z: true mean difference in units of the sd of the paired difference; not zero. (rows,)
        n: paired seeds, at least 2. (rows,)
        alpha: error of the two-sided test, between 0 and 1.

    Returns:
        Factors of at least nearly 1, float64 (rows,): E[|measured| given p <= alpha] / |true|.
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
