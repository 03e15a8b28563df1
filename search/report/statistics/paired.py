"""Paired differences of many arms to one, in a few calls of SciPy instead of one an arm; each is that of `stats`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from search.report.statistics.stats import CONFIDENCE, PairedDifference, pairing
from search.report.values import ArmValues

__all__ = ["differences"]


def differences(arms: Sequence[ArmValues], reference: ArmValues) -> list[PairedDifference]:
    """Compare each arm with `reference` on the seeds both finished, as `search.report.statistics.stats.difference` does.

    Arms that share the same seeds with the reference are tested together.
    """
    results: list[PairedDifference | None] = [None] * len(arms)
    together: dict[bytes, list[int]] = {}
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for position, arm in enumerate(arms):
        if np.array_equal(arm.seeds, reference.seeds):
            seeds, first, second = arm.seeds, arm.values, reference.values
        else:
            seeds, ours, theirs = np.intersect1d(arm.seeds, reference.seeds, assume_unique=True, return_indices=True)
            first, second = arm.values[ours], reference.values[theirs]
        pairs.append((first, second))
        together.setdefault(seeds.tobytes(), []).append(position)
    for group in together.values():
        first = np.stack([pairs[position][0] for position in group])  # (arms, seeds)
        second = np.stack([pairs[position][1] for position in group])
        for position, result in zip(group, compared(first, second), strict=True):
            results[position] = result
    return [result for result in results if result is not None]


def compared(first: np.ndarray, second: np.ndarray) -> list[PairedDifference]:
    """Compare row by row two arrays of shape (arms, seeds)."""
    deltas = first - second
    n = deltas.shape[1]
    if n == 0:
        return [PairedDifference(n=0, mean=None, sd=None, low=None, high=None, p_value=None)] * len(deltas)
    means = deltas.mean(axis=1)
    if n == 1:
        return [PairedDifference(n=1, mean=float(mean), sd=None, low=None, high=None, p_value=None) for mean in means]
    sds = deltas.std(axis=1, ddof=1)
    constant = sds <= 1e-12 * np.abs(np.concatenate([first, second], axis=1)).max(axis=1)
    lows = highs = p_values = np.full(len(deltas), np.nan)
    if not constant.all():
        test = stats.ttest_rel(first[~constant], second[~constant], axis=1)
        interval = test.confidence_interval(CONFIDENCE)
        lows, highs, p_values = (np.full(len(deltas), np.nan) for _ in range(3))
        lows[~constant], highs[~constant], p_values[~constant] = interval.low, interval.high, test.pvalue
    correlations, ratios = pairing(first, second)
    unpaired = constant | np.isnan(correlations)
    return [
        PairedDifference(
            n=n,
            mean=float(means[row]),
            sd=0.0 if constant[row] else float(sds[row]),
            low=None if constant[row] else float(lows[row]),
            high=None if constant[row] else float(highs[row]),
            p_value=None if constant[row] else float(p_values[row]),
            correlation=None if unpaired[row] else float(correlations[row]),
            variance_ratio=None if unpaired[row] else float(ratios[row]),
        )
        for row in range(len(deltas))
    ]
