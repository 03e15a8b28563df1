"""How large is a paired difference beside its own spread: Cohen's d_z, Hedges' g_z, and an exact interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from search.stats.paired import CONFIDENCE, has_spread, paired_values

__all__ = ["EffectSize", "effect_size", "hedges_factor"]


@dataclass(frozen=True, kw_only=True)
class EffectSize:
    """Standardised paired difference, in standard deviations of the difference. What is not defined is None.

    Attributes:
        n: seeds that both finished.
        d_z: mean of the differences over their standard deviation (Cohen 1988, section 2.3.5).
        g_z: d_z times Hedges' factor, which takes out its bias at few seeds (Hedges 1981); None at n < 3, where d_z has
            no expectation to correct.
        low, high: interval of the true d_z, from the noncentral t distribution (Steiger and Fouladi 1997): exact where
            differences are normal. It holds zero exactly where the t interval of the mean does.
    """

    n: int
    d_z: float | None
    g_z: float | None
    low: float | None
    high: float | None


def hedges_factor(degrees: int) -> float:
    """Return Hedges' exact correction for `degrees` (at least 2) degrees of freedom (Hedges 1981, equation 6e)."""
    if degrees < 2:
        raise ValueError(f"Hedges' factor needs at least 2 degrees of freedom (3 seeds), got {degrees}")
    half = degrees / 2
    return float(np.exp(special.gammaln(half) - special.gammaln(half - 0.5)) / np.sqrt(half))


def effect_size(arm: pd.Series[float], baseline: pd.Series[float], *, confidence: float = CONFIDENCE) -> EffectSize:
    """Compute the standardised paired difference of two series that are indexed by seed.

    All is None but n where there are fewer than two shared seeds, or where every seed shows the same difference.
    """
    pairs = paired_values(arm, baseline)
    n = len(pairs)
    if not has_spread(pairs):
        return EffectSize(n=n, d_z=None, g_z=None, low=None, high=None)
    deltas = (pairs["arm"] - pairs["baseline"]).to_numpy()
    d_z = float(deltas.mean() / deltas.std(ddof=1))
    tail = (1 - confidence) / 2
    t = d_z * np.sqrt(n)
    # nctdtrinc solves for the noncentrality; by symmetry both limits can be asked for at |t|, where it is well behaved.
    near, far = special.nctdtrinc(n - 1, [1 - tail, tail], abs(t)) / np.sqrt(n)
    low, high = (near, far) if t >= 0 else (-far, -near)
    defined = bool(np.isfinite(low) and np.isfinite(high))
    return EffectSize(
        n=n,
        d_z=d_z,
        g_z=hedges_factor(n - 1) * d_z if n > 2 else None,
        low=float(low) if defined else None,
        high=float(high) if defined else None,
    )
