"""Paired differences where arms start from trained networks: some roots, and in each some orders of the data.

The difference of an arm and the baseline that go on from root r in order o is d = mu + b_r + e_ro, b_r ~ N(0, between^2),
e_ro ~ N(0, within^2). Trainings from one root are not independent, and another study would have other roots. So the test is a t
test of the roots' mean differences, with roots - 1 degrees of freedom: exact where each root has as many orders, whatever the
two spreads are. A t test over all pairs takes orders for roots, and errs the more the roots differ
(docs/results/statistics_truth.md has both, simulated).

Beside it stands the mixed model of the same equation: REML, the interval of the mean with Satterthwaite's degrees of freedom from the
expected information. Where each root has as many orders it is the same test, save that a spread between roots below none is
none: then its interval is the wider one. Where orders are lost it weighs each root by what it knows.

R = roots, N = pairs of trainings (root and order), n_r = orders of root r.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from scipy import stats

from search.stats.paired import CONFIDENCE, ROUNDING, ArmValues, PairedDifference, compared, shared

GRID = np.linspace(0, 1, 101)[
    :-1
]  # shares of the variance that lie between roots, among which the best one is looked for
GOLDEN = (5**0.5 - 1) / 2
STEPS = 45  # of golden sections: 4e-10 of a cell of the grid
NEARLY_ONE = 1 - 1e-12


@dataclass(frozen=True, kw_only=True)
class MixedModel:
    """The mixed model of one arm's paired differences; None where it cannot be had: below two roots, or with no spread at all.

    Attributes:
        mean, se: of the difference, in the unit of the metric. degrees: of freedom, by Satterthwaite.
        low, high: two-sided interval of the mean. p_value: against zero, two-sided.
        sd_between, sd_within: of roots, and of orders within a root, by REML, not negative; None where each root has one order.
    """

    mean: float | None = None
    se: float | None = None
    degrees: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    sd_between: float | None = None
    sd_within: float | None = None


@dataclass(frozen=True, kw_only=True)
class Spreads:
    """The sd of paired differences between roots, and between orders within a root, with 95% intervals; never negative.

    Within: pooled over roots; its interval is that of a chi-squared variance; None where no root has two orders. Between: the variance of
    the roots' means less what orders bring into it (unweighted sums of squares; Thomas and Hultquist 1978), zero where that is more; its
    interval by Ting et al. (1990), nearly exact; None below two roots, or where nothing is known of the spread within.
    """

    between: float | None = None
    between_low: float | None = None
    between_high: float | None = None
    within: float | None = None
    within_low: float | None = None
    within_high: float | None = None


@dataclass(frozen=True)
class NestedDifference(PairedDifference):
    """Arm minus baseline, judged by the means of roots: `n` counts roots, `mean` is the mean over them, `sd` is of their means.

    `pairs` counts trainings of arm and baseline (root and order) that both finished.
    """

    unit: ClassVar[str] = "root"

    pairs: int = 0
    spreads: Spreads = Spreads()
    mixed: MixedModel = MixedModel()


def differences(arms: Sequence[ArmValues], reference: ArmValues) -> list[PairedDifference]:
    """Compare each arm with `reference` on the seeds both finished, over roots where they have any.

    Arms that share the same seeds are tested together.
    """
    pairs = [shared(arm, reference) for arm in arms]
    together: dict[bytes, list[int]] = {}
    for position, (seeds, _, _) in enumerate(pairs):
        together.setdefault(seeds.tobytes(), []).append(position)
    found: dict[int, PairedDifference] = {}
    for group in together.values():
        first, second = (np.stack([pairs[position][side] for position in group]) for side in (1, 2))
        roots = reference.roots_at(pairs[group[0]][0])
        results = compared(first, second) if roots is None else over_roots(first, second, roots)
        found |= zip(group, results, strict=True)
    return [found[position] for position in range(len(arms))]


def judged_deltas(arm: ArmValues, reference: ArmValues) -> np.ndarray:
    """The differences that an arm is judged by, float64: one for each seed that both finished, or for each root."""
    seeds, ours, theirs = shared(arm, reference)
    roots = reference.roots_at(seeds)
    return ours - theirs if roots is None else root_means((ours - theirs)[None], roots)[0]


def root_means(values: np.ndarray, roots: np.ndarray) -> np.ndarray:
    """Average over the orders of each root: of float64 (arms, N) and the root of each column, (N,), to (arms, R), roots ascending."""
    _, of, counts = np.unique(roots, return_inverse=True, return_counts=True)
    return np.asarray(values @ (of[:, None] == np.arange(len(counts))) / counts)


def over_roots(
    first: np.ndarray, second: np.ndarray, roots: np.ndarray, confidence: float = CONFIDENCE
) -> list[NestedDifference]:
    """Compare row by row two arrays of shape (arms, N), paired by column; `roots` (N,) says from which root each pair went on.

    With one order a root it is `compared`. Below two roots there is neither interval nor p-value, however many orders there are:
    they speak for that root alone, and `compared` judges them as such.
    """
    judged = compared(root_means(first, roots), root_means(second, roots), confidence)
    sums = _sums_of(first, second, roots)
    spreads, models = _spreads(sums, confidence), _mixed(sums, confidence)
    return [
        NestedDifference(**vars(each), pairs=first.shape[1], spreads=spread, mixed=model)
        for each, spread, model in zip(judged, spreads, models, strict=True)
    ]


@dataclass(frozen=True)
class _Sums:
    """What is sufficient of the differences of some arms on the same pairs: means (arms, R), n_r (R,), the sum of squares
    within roots (arms,) and the variance of the means (arms,); what is rounding is zero.
    """

    means: np.ndarray
    orders: np.ndarray
    within: np.ndarray
    between: np.ndarray

    @property
    def degrees(self) -> tuple[int, int]:
        """Degrees of freedom of the spread between roots and within them."""
        return len(self.orders) - 1, int(self.orders.sum()) - len(self.orders)


def _sums_of(first: np.ndarray, second: np.ndarray, roots: np.ndarray) -> _Sums:
    deltas = first - second
    _, of, orders = np.unique(roots, return_inverse=True, return_counts=True)
    means = root_means(deltas, roots)
    within = ((deltas - means[:, of]) ** 2).sum(axis=1)
    between = means.var(axis=1, ddof=1) if len(orders) > 1 else np.zeros(len(deltas))
    smallest = (ROUNDING * np.abs(np.concatenate([first, second], axis=1)).max(axis=1, initial=0.0)) ** 2
    return _Sums(
        means,
        orders,
        np.where(within > smallest * deltas.shape[1], within, 0.0),
        np.where(between > smallest, between, 0.0),
    )


def _rows(kind: Any, number: int, columns: dict[str, np.ndarray]) -> list[Any]:
    """Make a frozen value of each row of some columns; NaN is None."""
    names = [each.name for each in fields(kind)]
    table = np.vstack([np.broadcast_to(columns.get(name, np.array(np.nan)), number) for name in names]).T.tolist()
    return [
        kind(**{name: None if math.isnan(value) else value for name, value in zip(names, row, strict=True)})
        for row in table
    ]


def _spreads(sums: _Sums, confidence: float) -> list[Spreads]:
    between_df, within_df = sums.degrees
    columns: dict[str, np.ndarray] = {}
    tail = (1 - confidence) / 2
    if within_df > 0:
        mean_square = sums.within / within_df
        columns["within"] = np.sqrt(mean_square)
        for name, q in (("within_low", tail), ("within_high", 1 - tail)):
            columns[name] = np.sqrt(sums.within / stats.chi2.isf(q, within_df))
        if between_df > 0:
            of_orders = mean_square / (len(sums.orders) / (1 / sums.orders).sum())
            ends = difference_of_variances(sums.between, of_orders, (between_df, within_df), tail)
            for name, value in zip(("between", "between_low", "between_high"), ends, strict=True):
                columns[name] = np.sqrt(np.maximum(value, 0.0))
    return _rows(Spreads, len(sums.means), columns)


def difference_of_variances(
    more: np.ndarray, less: np.ndarray, degrees: tuple[int, int], tail: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `more - less`, and the ends of an interval of what it estimates, which may be negative; `tail` lies beyond each end.

    Args:
        more, less: mean squares, float64, of independent normal values, with these degrees of freedom.

    Ting, Burdick, Graybill, Jeyaratnam and Lu (1990), as in Burdick and Graybill (1992), section 3.3.
    """
    one, two = degrees

    def f(q: float, below: float = math.inf) -> float:
        """F with `one` degrees above `below`; SciPy has no infinite ones, which is chi-squared over its degrees."""
        return float(stats.chi2.isf(q, one) / one if math.isinf(below) else stats.f.isf(q, one, below))

    up, down = f(tail, two), f(1 - tail, two)
    g1, h1 = 1 - 1 / f(tail), 1 / f(1 - tail) - 1
    g2, h2 = 1 - two / stats.chi2.isf(tail, two), two / stats.chi2.isf(1 - tail, two) - 1
    g12 = ((up - 1) ** 2 - (g1 * up) ** 2 - h2**2) / up
    h12 = ((1 - down) ** 2 - (h1 * down) ** 2 - g2**2) / down
    low = (g1 * more) ** 2 + (h2 * less) ** 2 + g12 * more * less
    high = (h1 * more) ** 2 + (g2 * less) ** 2 + h12 * more * less
    return more - less, more - less - np.sqrt(np.maximum(low, 0.0)), more - less + np.sqrt(np.maximum(high, 0.0))


def _mixed(sums: _Sums, confidence: float) -> list[MixedModel]:
    number, (between_df, within_df) = len(sums.means), sums.degrees
    spread = (sums.between > 0) | (sums.within > 0)
    if between_df < 1 or not spread.any():
        return [MixedModel()] * number
    orders, means, within = sums.orders, sums.means[spread], sums.within[spread]
    total = int(orders.sum())
    if within_df:
        ratio = _best_ratio(means, orders, within)
        squares, weights, _ = _fit(ratio, means, orders, within)
        residual = squares / (total - 1)
        finite = np.isfinite(ratio)  # no spread within roots at all: each root counts alike, by what it differs
        between = np.where(finite, residual * np.where(finite, ratio, 0.0), sums.between[spread])
        variances = between[:, None] + residual[:, None] / orders
    else:
        variances = np.repeat(sums.between[spread][:, None], len(orders), axis=1)
        between = residual = np.full(len(means), np.nan)
    weights = 1 / variances
    mean, se = (weights * means).sum(axis=1) / weights.sum(axis=1), weights.sum(axis=1) ** -0.5
    degrees = _satterthwaite(weights, orders, residual, within_df)
    margin = stats.t.isf((1 - confidence) / 2, degrees) * se
    figures = (mean, se, degrees, mean - margin, mean + margin, 2 * stats.t.sf(np.abs(mean) / se, degrees))
    found = [*figures, np.sqrt(between), np.sqrt(residual)]
    columns = {each.name: np.full(number, np.nan) for each in fields(MixedModel)}
    for column, values in zip(columns.values(), found, strict=True):
        column[spread] = values
    return _rows(MixedModel, number, columns)


def _fit(
    ratio: np.ndarray, means: np.ndarray, orders: np.ndarray, within: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row at its ratio of variances, between over within: residual sum of squares, weights (rows, R), -2 log REML likelihood."""
    grown = 1 + np.where(np.isfinite(ratio), ratio, 0.0)[:, None] * orders
    weights = orders / grown
    mean = (weights * means).sum(axis=1) / weights.sum(axis=1)
    squares = np.where(np.isfinite(ratio), within + (weights * (means - mean[:, None]) ** 2).sum(axis=1), 0.0)
    with np.errstate(divide="ignore"):
        fit = (orders.sum() - 1) * np.log(squares) + np.log(grown).sum(axis=1) + np.log(weights.sum(axis=1))
    return squares, weights, fit


def _best_ratio(means: np.ndarray, orders: np.ndarray, within: np.ndarray) -> np.ndarray:
    """The ratio of variances, between roots over within them, at which the REML likelihood is largest; inf where `within` is 0."""

    def fit_at(share: np.ndarray) -> np.ndarray:
        return _fit(share / (1 - share), means, orders, within)[2]

    every = np.stack([fit_at(np.full(len(means), share)) for share in GRID])
    best, width = GRID[every.argmin(axis=0)], GRID[1]
    low, high = np.maximum(best - width, 0.0), np.minimum(best + width, NEARLY_ONE)
    for _ in range(STEPS):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        keeps_left = fit_at(left) <= fit_at(right)
        low, high = np.where(keeps_left, low, left), np.where(keeps_left, right, high)
    share = (low + high) / 2
    share = np.where(every[0] <= fit_at(share), 0.0, share)
    return np.where(within > 0, share / (1 - share), np.inf)


def _satterthwaite(weights: np.ndarray, orders: np.ndarray, residual: np.ndarray, within_df: int) -> np.ndarray:
    """Degrees of freedom of the mean's variance, by the expected information of both variances; weights (rows, R)."""
    total = weights.sum(axis=1)
    each = [np.ones(len(orders)), 1 / orders]  # by how much the variance of a root's mean grows with each of the two

    def trace(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        square, cube = weights**2, weights**3
        crossed = (a * square).sum(axis=1) * (b * square).sum(axis=1) / total**2
        return np.asarray((a * b * square).sum(axis=1) - 2 * (a * b * cube).sum(axis=1) / total + crossed)

    slopes = [(weights**2 * a).sum(axis=1) / total**2 for a in each]
    alone = 2 * (1 / total) ** 2 * trace(each[0], each[0]) / 2 / slopes[0] ** 2
    if not within_df:
        return alone
    between, both, within = trace(each[0], each[0]) / 2, trace(each[0], each[1]) / 2, trace(each[1], each[1]) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        within = within + within_df / residual**2 / 2
        determinant = between * within - both**2
        variance = (slopes[0] ** 2 * within - 2 * slopes[0] * slopes[1] * both + slopes[1] ** 2 * between) / determinant
        found = 2 * (1 / total) ** 2 / variance
    return np.where(residual > 0, found, alone)
