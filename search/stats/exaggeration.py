"""By how much do findings exaggerate? The type M error of the paired t test (Gelman and Carlin 2014).

Where power is low, a difference is found only in those studies in which noise has enlarged it: what is found is then larger
than the truth on average, however honest each test is.
"""

from __future__ import annotations

import numpy as np
from scipy import special, stats

__all__ = ["exaggerations"]

NODES = 128  # of the quadrature over the spread that a study happens to measure; more change the fifth digit at most


def exaggerations(d_z: np.ndarray, n: np.ndarray, *, alpha: float = 0.05) -> np.ndarray:
    """Return by what factor the differences that are found exceed the true one on average, in absolute value.

    Gelman and Carlin take the standard error as known. Here each study measures its own, as a t test does.

    Args:
        d_z: true mean difference in units of the sd of the paired difference; not zero. (rows,)
        n: paired seeds, at least 2. (rows,)
        alpha: error of the two-sided test.

    Returns:
        Factors of at least nearly 1, float64 (rows,): E[|measured| given p <= alpha] / |true|.

    Raises:
        ValueError: a difference of zero, fewer than 2 seeds, or an alpha outside 0 to 1.
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
