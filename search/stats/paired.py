"""Is the difference real? Paired differences over seeds, and what may be said of them in words.

Seeds on which an arm diverged are not missing at random: the arm is at fault, and the survivors flatter it. So it is never called
better, whatever its survivors show. The worst case counts a failed seed as the worst value that the metric can have: no
number between, such as chance or the worst of the survivors, is a bound, since a run that ended without a value has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
ALPHA = 0.05
"""Error that a table allows: of any false finding, or as its correction defines it."""
ROUNDING = 1e-12  # of the largest value: a spread below it is that of rounding

BETTER = "better than the baseline"
WORSE = "worse than the baseline"
AHEAD = "ahead of the baseline"  # where a training failed on some seeds: on those that are left
BEHIND = "behind the baseline"
UNDECIDED = "cannot be told from seed noise"
AFTER_CORRECTION = "not told from seed noise after correction"
EQUAL = "equal to the baseline on every seed"
CONSTANT = "same difference on every seed: no spread to judge by"


@dataclass(frozen=True, kw_only=True)
class ArmValues:
    """What a table needs of one arm.

    Attributes:
        values, seeds: the metric of the finished trials, float64 (n,), and their seeds, int64 (n,), sorted by seed.
        failed: seeds on which it diverged, failed, was pruned or came to no finite value, int64, sorted.
        all_seeds, statuses: of all its trials, finished or not, and how those ended.
        params, macs: of the first trial that has them.
        dose: geometric mean over the finished trials; None where none has one.
        roots: the trained network that each value went on from, as a number, int64 (n,), in an arm of several; None where all
            started from scratch, or from one.
        latency_ms, latency_fused_ms: medians over the finished trials, milliseconds; None where none was measured. Where
            some were measured in an exclusive slot, which `latency_exclusive` says, those alone count.
    """

    values: np.ndarray
    seeds: np.ndarray
    failed: np.ndarray
    all_seeds: np.ndarray
    statuses: list[str]
    params: int | None
    macs: int | None
    dose: float | None = None
    latency_ms: float | None
    latency_fused_ms: float | None
    latency_exclusive: bool | None
    roots: np.ndarray | None = None

    def roots_at(self, seeds: np.ndarray) -> np.ndarray | None:
        """Return the root of each of some of its finished seeds, which ascend; None where it has none."""
        return None if self.roots is None else self.roots[np.searchsorted(self.seeds, seeds)]


@dataclass(frozen=True)
class PairedDifference:
    """Arm minus baseline, over the seeds that both finished. What is not defined is None.

    Attributes:
        n: number of seeds that both finished.
        mean: mean difference, in the unit of the metric; None at n = 0.
        sd: standard deviation of the difference (n - 1 in the denominator); None at n < 2.
        low, high: two-sided t interval of the mean difference, 95% unless asked otherwise; None at n < 2, and where
            every seed shows the same difference: a spread of zero comes from coarse measurements, and an interval of
            width zero would claim a certainty nobody has.
        p_value: two-sided paired t test against zero; None where the interval is.
        correlation: of arm and baseline over the seeds; None at n < 3, and where one of them has no spread.
        variance_ratio: variance of the difference if the seeds were not paired, over that of the paired one: how many
            times the seeds independent runs would take for the same certainty; None where `correlation` is.
    """

    unit: ClassVar[str] = "seed"  # what `n` counts, and a value of the difference belongs to

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    p_value: float | None
    correlation: float | None = None
    variance_ratio: float | None = None


def paired_values(arm: pd.Series[float], baseline: pd.Series[float]) -> pd.DataFrame:
    """Put the values of two arms side by side, by seed in ascending order, on the seeds where both have a finite one.

    What failed or was pruned must not be in them. ValueError where a seed occurs twice in one, so that nobody knows which is meant.
    """
    for name, values in (("arm", arm), ("baseline", baseline)):
        if not values.index.is_unique:
            twice = sorted(set(values.index[values.index.duplicated()]))
            raise ValueError(
                f"the {name} has more than one value for seed {', '.join(map(str, twice))}: keep one of them"
            )
    pairs = pd.concat({"arm": arm, "baseline": baseline}, axis=1, join="inner").astype(float)
    return pairs[np.isfinite(pairs.to_numpy()).all(axis=1)].sort_index()


def difference(
    arm: pd.Series[float], baseline: pd.Series[float], *, confidence: float = CONFIDENCE
) -> PairedDifference:
    """Compare two series that are indexed by seed, on the seeds both have; see `paired_values`."""
    first, second = paired_values(arm, baseline).to_numpy().T.copy()
    return compared(first[None], second[None], confidence)[0]


def shared(arm: ArmValues, reference: ArmValues) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the seeds that both finished, ascending, and the values of each there; where they have roots, from the same root."""
    if np.array_equal(arm.seeds, reference.seeds):  # of thousands of arms nearly all: set operations are slow
        seeds, first, second = arm.seeds, arm.values, reference.values
    else:
        seeds, ours, theirs = np.intersect1d(arm.seeds, reference.seeds, assume_unique=True, return_indices=True)
        first, second = arm.values[ours], reference.values[theirs]
    roots = arm.roots_at(seeds), reference.roots_at(seeds)
    if roots[0] is None or roots[1] is None:
        return seeds, first, second
    same = roots[0] == roots[1]
    return seeds[same], first[same], second[same]


def compared(first: np.ndarray, second: np.ndarray, confidence: float = CONFIDENCE) -> list[PairedDifference]:
    """Compare row by row two arrays of shape (arms, seeds)."""
    deltas = first - second
    n_arms, n = deltas.shape
    means = deltas.mean(axis=1) if n else np.full(n_arms, np.nan)
    sds = np.full(n_arms, np.nan)
    figures = np.full((5, n_arms), np.nan)
    if n > 1:
        sds = deltas.std(axis=1, ddof=1)
        varies = sds > ROUNDING * np.abs(np.concatenate([first, second], axis=1)).max(axis=1)  # else it is rounding
        sds = np.where(varies, sds, 0.0)
        if varies.any():
            test = stats.ttest_rel(first[varies], second[varies], axis=1)
            interval = test.confidence_interval(confidence)
            bought = pairing(first[varies], second[varies])
            figures[:, varies] = interval.low, interval.high, test.pvalue, *bought
    rows = np.vstack([means, sds, figures]).T.tolist()
    return [PairedDifference(n, *(None if math.isnan(value) else value for value in row)) for row in rows]


def pairing(arm: np.ndarray, baseline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute what pairing by seed bought, of arrays (rows, seeds): correlation and ratio of variances, see `PairedDifference`."""
    rows, n = arm.shape
    if n < 3:
        return np.full(rows, np.nan), np.full(rows, np.nan)
    variances = arm.var(axis=1, ddof=1), baseline.var(axis=1, ddof=1), (arm - baseline).var(axis=1, ddof=1)
    smallest = 1e-24 * np.maximum(np.abs(arm), np.abs(baseline)).max(axis=1) ** 2  # below it is rounding
    spread = np.minimum.reduce(variances) > smallest
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = (variances[0] + variances[1] - variances[2]) / 2 / np.sqrt(variances[0] * variances[1])
        ratio = (variances[0] + variances[1]) / variances[2]
    return np.where(spread, np.clip(correlation, -1, 1), np.nan), np.where(spread, ratio, np.nan)


def verdict(result: PairedDifference, *, higher_is_better: bool = True, p_corrected: float | None = None) -> str:
    """Say in words what a paired difference allows to be said.

    `p_corrected` is the p-value of the row, corrected over its table; None for a row that stands alone. An interval of a single
    row that leaves out zero is then no finding yet: it is one where the corrected p-value is at most 5%.
    """
    if result.n < 2:
        return f"too few {result.unit}s (n={result.n})"
    if result.low is None or result.high is None:
        words = EQUAL if math.isclose(result.mean or 0.0, 0.0, abs_tol=1e-9) else CONSTANT
        return words.replace("seed", result.unit)
    if result.low <= 0 <= result.high:
        return UNDECIDED
    if p_corrected is not None and p_corrected > ALPHA:
        return AFTER_CORRECTION
    return BETTER if (result.low > 0) == higher_is_better else WORSE


@dataclass(frozen=True, kw_only=True)
class Survivors:
    """Which seeds of a pair came through.

    Attributes:
        tried: seeds that both have, and on which each finished or failed; `lost` those of them on which one failed.
        who: of whom the others are the survivors: "it", "the baseline" or "both".
        worst: mean difference over the pairs and the seeds that the arm lost and the baseline finished, where the arm's
            value there is the worst there is; None where it lost none, or the metric has no worst value.
    """

    tried: int
    lost: int = 0
    who: str = ""
    worst: float | None = None

    def on_which(self) -> str:
        """Say on which seeds a verdict rests: "on the 4 of 5 seeds it survived"; "" where none was lost."""
        return f"on the {self.tried - self.lost} of {self.tried} seeds {self.who} survived" if self.lost else ""


def survivors(arm: ArmValues, baseline: ArmValues, worst_value: float | None) -> Survivors:
    """Count the seeds of an arm and the baseline by whether they came through.

    `worst_value` is the worst that the metric can be, e.g. 0 for a percentage; None where there is no such.
    """
    seeds, ours, theirs = shared(arm, baseline)
    by_arm = np.intersect1d(arm.failed, [*baseline.seeds, *baseline.failed]) if len(arm.failed) else arm.failed
    by_baseline = np.intersect1d(baseline.failed, [*arm.seeds, *arm.failed]) if len(baseline.failed) else by_arm[:0]
    lost = len({*by_arm.tolist(), *by_baseline.tolist()})
    if not lost:
        return Survivors(tried=len(seeds))
    who = "it" if not len(by_baseline) else "both" if len(by_arm) else "the baseline"
    there = np.isin(baseline.seeds, by_arm)
    alone, lost_seeds = baseline.values[there], baseline.seeds[there]
    worst = None
    if len(alone) and worst_value is not None:
        worst = _mean_over_roots(np.concatenate([ours - theirs, worst_value - alone]), baseline, [*seeds, *lost_seeds])
    return Survivors(tried=len(seeds) + lost, lost=lost, who=who, worst=worst)


def _mean_over_roots(deltas: np.ndarray, baseline: ArmValues, seeds: list[int]) -> float:
    """Average differences of these finished seeds of the baseline: each root counts alike, where it has any."""
    roots = baseline.roots_at(np.asarray(seeds, dtype=np.int64))
    if roots is None:
        return float(deltas.mean())
    return float(np.mean([deltas[roots == root].mean() for root in np.unique(roots)]))
