"""Which of several parts to take under budgets, if what they bring adds up: an integer program, and how sure its answer is.

Exact: HiGHS searches without a gap (`scipy.optimize.milp`), and whatever it finds is checked in whole numbers; what only its tolerances
allow is cut off, and it searches again. Gains are taken in steps of a millionth of the largest one, which is far below what anybody
measures, so that sums of equal gains are equal, and ties are ties.

N = options, S = places that no two options may share, K = costs, R = units that are independent (roots, or seeds), A = arms.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats
from scipy.optimize import Bounds, LinearConstraint, milp

from search.stats.paired import CONFIDENCE

STEPS = 1_000_000
MOST_RESAMPLES = 130  # as many as there are ways to draw from five units, and a few more
INFEASIBLE = 2  # of `milp`
Chosen = tuple[int, ...]
"""The options that are taken, ascending."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What may be taken.

    Attributes:
        covers: bool (N, S): an option takes up these places.
        costs: int64 (K, N): what an option adds to each cost, below zero where it saves; those that break ties go first.
        limits: float64 (K,): how much may be added to each; inf where nobody asks. Below zero where something must be saved.
    """

    covers: np.ndarray
    costs: np.ndarray
    limits: np.ndarray

    @cached_property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """The constraints of every search: float64 (M, N) and upper bounds (M,)."""
        shared = np.unique(self.covers.T, axis=0)
        bound = np.isfinite(self.limits)
        return np.vstack([shared, self.costs[bound]]).astype(float), np.append(np.ones(len(shared)), self.limits[bound])

    def fits(self, chosen: Chosen) -> bool:
        """Whether no place is taken twice and no limit passed; in whole numbers."""
        taken = [*chosen]
        once = (self.covers[taken].sum(axis=0) <= 1).all()
        return bool(once and (self.costs[:, taken].sum(axis=1) <= self.limits).all())

    def smallest(
        self, objective: np.ndarray, bounds: Sequence[tuple[np.ndarray, int]] = (), without: Sequence[Chosen] = ()
    ) -> Chosen | None:
        """The options of the smallest sum of `objective`, int64 (N,); None where nothing fits.

        Args:
            bounds: further whole numbers (N,), each with the largest sum that is allowed.
            without: what must not be chosen.

        Raises:
            RuntimeError: the solver gave up.
        """
        number = len(objective)
        if not number:
            return () if self.fits(()) and () not in without else None
        rows, upper = self._rows
        rows = np.vstack([rows, *(row for row, _ in bounds)])
        upper = np.append(upper, [most for _, most in bounds])
        cuts = list(without)
        while True:
            cut = np.full((len(cuts), number), -1.0)
            for row, taken in zip(cut, cuts, strict=True):
                row[[*taken]] = 1.0
            result = milp(
                objective * (STEPS / max(np.abs(objective).max(), 1)),
                integrality=np.ones(number),
                bounds=Bounds(0, 1),
                constraints=LinearConstraint(np.vstack([rows, cut]), ub=np.append(upper, [len(t) - 1.0 for t in cuts])),
                options={"mip_rel_gap": 0.0},
            )
            if result.status == INFEASIBLE:
                return None
            if result.x is None or result.status:
                raise RuntimeError(f"no placement was found: {result.message}")
            found = tuple(np.flatnonzero(result.x > 0.5).tolist())
            if self.fits(found) and all(int(row[[*found]].sum()) <= most for row, most in bounds):
                return found
            cuts.append(found)


def in_steps(gains: np.ndarray) -> np.ndarray:
    """Whole numbers for float64 (N,), of which the largest size is `STEPS`."""
    largest = np.abs(gains).max(initial=0.0)
    return np.rint(gains * (STEPS / largest if largest else 0.0)).astype(np.int64)


def best(problem: Problem, gains: np.ndarray, without: Sequence[Chosen] = ()) -> Chosen | None:
    """The options of the largest sum of `gains`, float64 (N,), within the limits; None where nothing is within them.

    Of those that bring as much the cheapest by the first cost, of these by the next, then the fewest, then the first ones.
    """
    losses = -in_steps(gains)
    found = problem.smallest(losses, without=without)
    if found is None:
        return None
    least = int(losses[[*found]].sum())
    other = problem.smallest(losses, without=[*without, found])
    if other is None or int(losses[[*other]].sum()) > least:
        return found  # nothing else brings as much
    bounds = [(losses, least)]
    for objective in (*problem.costs, np.ones_like(losses), np.arange(len(losses))):
        found = problem.smallest(objective, bounds, without)
        assert found is not None
        bounds.append((objective, int(objective[[*found]].sum())))
    return found


def ranked(problem: Problem, gains: np.ndarray, count: int) -> list[Chosen]:
    """The best, the next best and so on, at most `count`; none where nothing is within the limits."""
    found: list[Chosen] = []
    while len(found) < count:
        following = best(problem, gains, found)
        if following is None:
            break
        found.append(following)
    return found


def shares(problem: Problem, gains: np.ndarray, seed: int = 0) -> dict[Chosen, float]:
    """How often each placement is the best one where units are drawn again with replacement, of float64 (R, N) gains.

    All ways to draw are gone through where they are few, each by its probability; else `MOST_RESAMPLES` are drawn.
    """
    found: Counter[Chosen] = Counter()
    for weights, probability in _drawn(len(gains), seed):
        chosen = best(problem, weights @ gains)
        if chosen is not None:
            found[chosen] += probability  # type: ignore[assignment]  # typeshed counts in whole numbers
    return {chosen: float(share) for chosen, share in found.most_common()}


def _drawn(units: int, seed: int) -> Iterator[tuple[np.ndarray, float]]:
    """Weights, float64 (R,), of units that are drawn as often as there are units, and how probable each draw is."""
    if math.comb(2 * units - 1, units) <= MOST_RESAMPLES:
        for drawn in itertools.combinations_with_replacement(range(units), units):
            times = np.bincount(drawn, minlength=units)
            ways = math.factorial(units) // math.prod(map(math.factorial, times.tolist()))
            yield times / units, ways / units**units
        return
    generator = np.random.default_rng(seed)
    for _ in range(MOST_RESAMPLES):
        yield generator.multinomial(units, np.full(units, 1 / units)) / units, 1 / MOST_RESAMPLES


@dataclass(frozen=True, kw_only=True)
class Additivity:
    """By how much sums of parts miss what their combinations came to. What is not defined is None.

    Attributes:
        n: arms of two parts or more.
        mean, sd: of predicted less measured, over those arms, in the unit of the gains.
        by_noise: the sd that would be seen if gains did add up, from the spread of the units on both sides.
    """

    n: int
    mean: float | None = None
    sd: float | None = None
    by_noise: float | None = None


def additivity(parts: np.ndarray, taken: np.ndarray, measured: np.ndarray) -> Additivity:
    """Compare sums of gains with measured ones.

    Args:
        parts: float64 (R, N), the gain of each option on each unit.
        taken: bool (A, N), the options that each arm has.
        measured: float64 (units, A), the gain of each arm, NaN where it did not finish.
    """
    several = taken.sum(axis=1) > 1
    predicted, found = parts @ taken[several].T.astype(float), measured[:, several]
    errors = predicted.mean(axis=0) - np.nanmean(found, axis=0)
    if not len(errors):
        return Additivity(n=0)
    counts = np.isfinite(found).sum(axis=0)
    noise = None
    if len(parts) > 1 and (counts > 1).all():
        variances = predicted.var(axis=0, ddof=1) / len(parts) + np.nanvar(found, axis=0, ddof=1) / counts
        noise = float(np.sqrt(variances.mean()))
    sd = float(errors.std(ddof=1)) if len(errors) > 1 else None
    return Additivity(n=len(errors), mean=float(errors.mean()), sd=sd, by_noise=noise)


def tau_interval(
    parts: np.ndarray, taken: np.ndarray, measured: np.ndarray, resamples: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """Interval of Kendall's tau-b of summed and measured gains over arms and units, drawn again on both sides; see `additivity`.

    Percentiles; None where a tau is never defined.
    """
    generator = np.random.default_rng(seed)
    arms = taken.astype(float)
    drawn = []
    for _ in range(resamples):
        rows = generator.integers(len(arms), size=len(arms))
        ours = arms[rows] @ parts[generator.integers(len(parts), size=len(parts))].mean(axis=0)
        theirs = measured[generator.integers(len(measured), size=len(measured))][:, rows]
        known = np.isfinite(theirs).any(axis=0)
        if known.sum() > 1:
            drawn.append(stats.kendalltau(ours[known], np.nanmean(theirs[:, known], axis=0)).statistic)
    found = np.array(drawn)[np.isfinite(drawn)] if drawn else np.array([])
    if not len(found):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def costs_of(problem: Problem, chosen: Chosen) -> list[int]:
    """What a placement adds to each cost."""
    return [int(each) for each in problem.costs[:, [*chosen]].sum(axis=1)]
