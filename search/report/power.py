"""What can this number of seeds resolve, and how many would settle an undecided row? Power of the paired t test."""

from __future__ import annotations

import math
from functools import cache

from scipy import stats
from scipy.optimize import brentq
from statsmodels.stats.power import TTestPower

__all__ = ["MAX_SEEDS", "minimum_detectable_difference", "power", "seeds_needed"]

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
    d_z = abs(difference) / sd
    value = float(TTestPower().power(d_z, n, alpha, alternative="two-sided"))
    return value if math.isfinite(value) else large_effect_power(d_z, n, alpha)


def large_effect_power(d_z: float, n: int, alpha: float) -> float:
    """Compute the power where statsmodels has none (NaN), which happens at large effects and few seeds.

    SciPy cannot compute the other tail there, which is below Phi(-d_z sqrt(n)): it is left out. Above about 38 standard
    errors it cannot compute this one either; there the error of the mean is negligible beside that of the spread.
    """
    degrees, noncentrality = n - 1, d_z * math.sqrt(n)
    critical = float(stats.t.isf(alpha / 2, degrees))
    value = float(stats.nct.sf(critical, degrees, noncentrality))
    return value if math.isfinite(value) else float(stats.chi2.cdf(degrees * (noncentrality / critical) ** 2, degrees))


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

    For an undecided row, `difference` is best the smallest one that would matter to the reader. The measured difference
    may be used, but it is a guess: a row is undecided because that number is mostly noise.

    Args:
        difference: true mean difference, in the unit of the metric; None is returned where it is zero.
        sd: standard deviation of the paired difference over seeds, above zero.
        alpha: error of the two-sided test.
        target: power asked for, between alpha and 1.
    """
    check(sd, alpha)
    check_target(alpha, target)

    def enough(n: int) -> bool:
        return power(difference, sd, n, alpha=alpha) >= target

    if not enough(MAX_SEEDS):
        return None
    high = 2
    while not enough(high):
        high = min(2 * high, MAX_SEEDS)
    low = max(high // 2, 1)  # one seed is never enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


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
