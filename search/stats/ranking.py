"""Which arms are the best: the Pareto front; and may a cheap ranking of them stand for an expensive one (Kendall's tau, top-k overlap)?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from search.stats.paired import CONFIDENCE

FEWEST_ARMS = 5
"""Below this many arms a bootstrap over arms has too few distinct resamples to give an interval."""
MANY_ARMS, FEWEST_RESAMPLES = 200, 200  # above so many arms fewer resamples do: the work grows with the arms' square
BATCH = 500  # resamples at a time
BY_CHANCE = "no better than chance"


@dataclass(frozen=True, kw_only=True)
class ProxyTrust:
    """How well the ranking at a cheap budget agrees with the ranking at an expensive one. What is not defined is None.

    Attributes:
        n: arms that both rankings have.
        tau: Kendall's tau-b, -1 to 1; None below 2 arms or where all arms of one ranking are tied.
        low, high: percentile bootstrap interval over arms; it speaks of arms like these, and takes each mean as it is:
            seed noise in the means is part of what lowers tau, not of the interval.
        p_value: two-sided test of tau = 0; exact where there are no ties.
        top_k: names of the arms that are among the best k in both rankings; `overlap` is their number over k.
        overlap_by_chance: what two unrelated rankings of n arms would share on average, k / n.
        overlap_p: chance that unrelated rankings share as many or more (hypergeometric).
        regret: how much worse than the best arm the cheap ranking's winner is at the expensive budget, in the unit of the
            metric; zero or above.
        note: why something above is None, or what to be careful about; empty where there is nothing to say.
    """

    n: int
    tau: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    k: int
    top_k: tuple[str, ...] = ()
    overlap: float | None = None
    overlap_by_chance: float | None = None
    overlap_p: float | None = None
    regret: float | None = None
    note: str


def proxy_trust(
    cheap: pd.Series[float],
    expensive: pd.Series[float],
    *,
    k: int = 3,
    higher_is_better: bool = True,
    resamples: int = 2000,
    seed: int = 0,
) -> ProxyTrust:
    """Compare two rankings of the same arms, by their mean at the small and at the large budget.

    Arms without a finite mean in both are left out, and counted in the note. `k` is how many of the best to compare, at most all arms.
    Of the bootstrap over arms fewer `resamples` are drawn above 200 arms, but not fewer than 200.
    """
    check(cheap, expensive, k)
    both = pd.concat({"cheap": cheap, "expensive": expensive}, axis=1, join="outer").astype(float)
    finite = np.isfinite(both.to_numpy()).all(axis=1)
    notes = [f"{int((~finite).sum())} arms are in one ranking only"] if not finite.all() else []
    both = (both[finite] if higher_is_better else -both[finite]).sort_index()
    n = len(both)
    k = min(k, n)
    if n < 2 or both.nunique().min() == 1:
        why_not = "all arms are tied in one ranking: there is no order to compare"
        why_not = f"{n} shared arms: 2 are the fewest to rank" if n < 2 else why_not
        return ProxyTrust(n=n, k=k, note="; ".join([*notes, why_not]))
    test = stats.kendalltau(both["cheap"], both["expensive"])
    tau = float(np.clip(test.statistic, -1, 1))
    low = high = None
    if n < FEWEST_ARMS:
        notes.append(f"no interval of tau: {n} arms, {FEWEST_ARMS} are the fewest to resample")
    elif math.isclose(abs(tau), 1):
        notes.append("no interval of tau: the rankings agree (or disagree) in every pair, so every resample does too")
    else:
        low, high = _tau_interval(both, resamples, seed)
    best = []
    for name, ranking in both.items():
        ordered = ranking.sort_values(ascending=False, kind="stable")
        best.append(set(ordered.index[:k]))
        if k < n and ordered.iloc[k - 1] == ordered.iloc[k]:
            notes.append(f"a tie at place {k} of the {name} ranking was broken by name")
    shared = best[0] & best[1]
    return ProxyTrust(
        n=n,
        tau=tau,
        low=low,
        high=high,
        p_value=float(test.pvalue),
        k=k,
        top_k=tuple(sorted(map(str, shared))),
        overlap=len(shared) / k,
        overlap_by_chance=k / n,
        overlap_p=float(stats.hypergeom.sf(len(shared) - 1, n, k, k)),
        regret=float(both["expensive"].max() - both["expensive"].iloc[both["cheap"].argmax()]),
        note="; ".join(notes),
    )


def than_chance(low: float | None, high: float | None) -> str:
    """Say what an interval of tau shows of a ranking; "" without one."""
    if low is None or high is None:
        return ""
    return BY_CHANCE if low <= 0 <= high else "better than chance" if low > 0 else "worse than chance"


def check(cheap: pd.Series[float], expensive: pd.Series[float], k: int) -> None:
    """Refuse rankings with two values for one arm, and a k that looks at none."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    for name, ranking in (("cheap", cheap), ("expensive", expensive)):
        if not ranking.index.is_unique:
            twice = sorted(set(ranking.index[ranking.index.duplicated()].map(str)))
            raise ValueError(f"the {name} ranking has more than one value for {', '.join(twice)}: keep one of them")


def _tau_interval(both: pd.DataFrame, resamples: int, seed: int) -> tuple[float, float]:
    cheap, expensive = both["cheap"].to_numpy(), both["expensive"].to_numpy()
    resamples = min(resamples, max(FEWEST_RESAMPLES, resamples * MANY_ARMS // len(both)))
    # Arms are resampled, not values: a resample is how often each arm was drawn, and tau-b over all resamples is three
    # matrix products, where `scipy.stats.kendalltau` takes half a millisecond a resample.
    orders = [np.sign(np.subtract.outer(ranking, ranking)) for ranking in (cheap, expensive)]
    agree, strict = orders[0] * orders[1], [np.abs(order) for order in orders]

    def statistic(drawn: np.ndarray, axis: int) -> np.ndarray:
        times = np.apply_along_axis(np.bincount, axis, drawn.astype(np.int64), minlength=len(both)).astype(float)
        above, left, right = (((times @ pairs) * times).sum(axis=axis) for pairs in (agree, *strict))
        return np.asarray(above / np.sqrt(left * right))

    # The interval is taken from the distribution, not from `confidence_interval`: a resample in which a ranking is one
    # tie has no tau (NaN), and SciPy would make the whole interval NaN for it.
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore")
        drawn = stats.bootstrap(
            (np.arange(len(both)),),
            statistic,
            vectorized=True,
            batch=BATCH,
            n_resamples=resamples,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return max(float(low), -1.0), min(float(high), 1.0)


def on_front(points: np.ndarray, higher_is_better: Sequence[bool]) -> list[bool | None]:
    """Tell for each point whether it is on the front; None where one of its values is missing, which is compared with none.

    A point dominates another where it is at least as good in every objective, and better in one: `points` are float64 (points,
    objectives), NaN where a value is missing.
    """
    losses = np.where(np.asarray(higher_is_better, dtype=bool), -points, points)
    missing = np.asarray(np.isnan(losses).any(axis=1))
    others = losses[~missing]
    found: list[bool | None] = []
    for loss, unknown in zip(losses, missing, strict=True):
        beaten = ((others <= loss).all(axis=1) & (others < loss).any(axis=1)).any()
        found.append(None if unknown else not bool(beaten))
    return found
