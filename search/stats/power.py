"""What can this number of seeds resolve, and how many would settle an undecided row? Power of the paired t test."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from statsmodels.stats.power import ttest_power

__all__ = [
    "MAX_SEEDS",
    "minimum_detectable_difference",
    "power",
    "powers",
    "sd_interval",
    "seeds_needed",
    "seeds_needed_each",
]

MAX_SEEDS = 10_000
"""Beyond this many seeds `seeds_needed` says None: the difference is too small to be settled by training."""


def power(difference: float, sd: float, n: int, *, alpha: float = 0.05) -> float:
    """Return the chance that n paired seeds find a true difference, by a two-sided t test at `alpha`.

    Args:
        difference: true mean difference, in the unit of the metric.
        sd: standard deviation of the paired difference over seeds, above zero, in the same unit.
        n: number of paired seeds, at least 2.
        alpha: error of the test; for m rows under Holm, alpha / m is the cautious choice.

    Raises:
        ValueError: n < 2, an sd that is not above zero, or an alpha outside 0 to 1.
    """
    check(sd, alpha)
    if n < 2:
        raise ValueError(f"a paired t test needs at least 2 seeds, got {n}")
    return float(powers(np.array([abs(difference) / sd]), np.array([float(n)]), alpha)[0])


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
        ValueError: as in `power`, or a target that is no power.
    """
    check(sd, alpha)
    check_target(alpha, target)
    return sd * detectable_effect(n, alpha, target)


@cache
def detectable_effect(n: int, alpha: float, target: float) -> float:
    """Compute the detectable difference in units of the sd; the rows of a table mostly share it."""
    high = 1.0
    while power(high, 1.0, n, alpha=alpha) < target:
        high *= 2
    return float(brentq(lambda d_z: power(d_z, 1.0, n, alpha=alpha) - target, 0.0, high, xtol=1e-10))


def seeds_needed(difference: float, sd: float, *, alpha: float = 0.05, target: float = 0.8) -> int | None:
    """Return the fewest paired seeds that find a true difference with power `target`; None above `MAX_SEEDS`.

    Args:
        difference: the smallest one that would matter to the reader, in the unit of the metric; None is returned where
            it is zero. Never the measured one: a row is undecided because that number is mostly noise, and what would be
            needed at 5 seeds for a true 92 comes out between 9 and 6,875.
        sd: standard deviation of the paired difference over seeds, above zero.
        alpha: error of the two-sided test.
        target: power asked for, between alpha and 1.
    """
    check(sd, alpha)
    return seeds_needed_each(np.array([difference / sd]), alpha=alpha, target=target)[0]


def seeds_needed_each(d_z: np.ndarray, *, alpha: float = 0.05, target: float = 0.8) -> list[int | None]:
    """Return `seeds_needed` for many rows at once, each given by its difference in units of its sd; None for NaN.

    The search starts at the number that normal theory gives, which is near, and steps out from there: large effects at
    thousands of seeds, where the noncentral t distribution cannot be computed, are never asked for.
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


def check(sd: float, alpha: float) -> None:
    """Refuse what has no power."""
    if not (sd > 0 and math.isfinite(sd)):
        raise ValueError(f"the standard deviation of the difference must be a number above zero, got {sd}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}; 0.05 is usual")


def check_target(alpha: float, target: float) -> None:
    """Refuse a power that is trivial or never reached."""
    if not alpha < target < 1:
        raise ValueError(f"the power asked for must lie between alpha ({alpha}) and 1, got {target}; 0.8 is usual")
