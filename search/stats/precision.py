"""COCO's average precision from what was matched, and how far it moves with the pictures: a paired bootstrap over them.

A picture that is drawn twice counts as two pictures of the same content. So pictures have whole numbers as weights, sums along the curve
are weighted, and nothing is matched again; that is exactly the precision of a data set in which pictures stand as often as that, but for
the order of detections that have one score in one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.stats.paired import CONFIDENCE

RECALLS = np.linspace(0.0, 1.0, 101)  # at which COCO reads the curve
RESAMPLES = 200


@dataclass(frozen=True, eq=False)
class Judged:
    """The n detections of one network in P pictures of K categories, in COCO's order: by category, picture and falling score.

    Attributes:
        picture, category: int64 (n,), from 0.
        score: float64 (n,).
        matched, ignored: bool (T, n): at each of T overlaps whether it found an object, and whether it counts neither way.
        objects: int64 (P, K): the objects that count.
    """

    picture: np.ndarray
    category: np.ndarray
    score: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray


@dataclass(frozen=True)
class OverPictures:
    """A difference, and how far it moves with the pictures: mean, sd and ends of the 95% percentile interval of the resamples."""

    mean: float
    sd: float
    low: float
    high: float


def average_precision(judged: Judged, weights: np.ndarray | None = None) -> np.ndarray:
    """COCO's average precision of each category, the mean over the overlaps.

    Args:
        weights: int64 (R, P), how often each picture counts; None: once.

    Returns:
        float64 (R, K), (1, K) without weights, in percent; NaN where no object of the category counts. The mean over categories that
        have a value is what COCO reports.
    """
    if weights is None:
        weights = np.ones((1, len(judged.objects)), dtype=np.int64)
    found = np.full((len(weights), judged.objects.shape[1]), np.nan)
    objects = weights @ judged.objects
    for category in range(found.shape[1]):
        here = np.flatnonzero(judged.category == category)
        here = here[np.argsort(-judged.score[here], kind="stable")]
        of_each = weights[:, judged.picture[here]]
        before = np.cumsum(of_each, axis=1)
        precisions = [
            _read_at_recalls(of_each, before, matched, ignored, objects[:, category])
            for matched, ignored in zip(judged.matched[:, here], judged.ignored[:, here], strict=True)
        ]
        found[:, category] = 100 * np.mean(precisions, axis=0)
    found[objects == 0] = np.nan
    return found


def _read_at_recalls(
    weights: np.ndarray, before: np.ndarray, matched: np.ndarray, ignored: np.ndarray, objects: np.ndarray
) -> np.ndarray:
    """The mean precision at COCO's recalls, float64 (R,), of detections in the order of their scores.

    Precision is highest where an object was just found, so it is looked up there alone. `weights` and `before`, their sums so far, are
    (R, n).
    """
    hits, passed = np.flatnonzero(matched & ~ignored), np.flatnonzero(ignored)
    right = np.cumsum(weights[:, hits], axis=1)
    counted = before[:, hits]
    if len(passed):
        sums = np.cumsum(weights[:, passed], axis=1)
        places = np.searchsorted(passed, hits)
        counted[:, places > 0] -= sums[:, places[places > 0] - 1]
    precision = right / (counted + np.spacing(1))
    ends = np.zeros((len(right), len(hits) + 1))
    ends[:, :-1] = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = right / np.maximum(objects, 1)[:, None]
    return np.array([row[up.searchsorted(RECALLS)].sum() for row, up in zip(ends, recall, strict=True)]) / len(RECALLS)


def drawn(pictures: int, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each picture is drawn in each resample, int64 (1 + resamples, pictures): the first is the pictures as they are.

    The same for as many pictures, so that two networks are read on the same ones.
    """
    chosen = np.random.default_rng(0).integers(pictures, size=(resamples, pictures))
    counts = [np.bincount(row, minlength=pictures) for row in chosen]
    return np.array([np.ones(pictures, dtype=np.int64), *counts], dtype=np.int64)


def mean_precision(judged: Judged, weights: np.ndarray) -> np.ndarray:
    """Average precision over categories, float64 (R,), in percent, for each row of `weights`; NaN where no object counts."""
    each = average_precision(judged, weights)
    known = ~np.isnan(each)
    with np.errstate(invalid="ignore"):
        return np.where(known, each, 0.0).sum(axis=1) / known.sum(axis=1)


def over_pictures(arm: Sequence[np.ndarray], baseline: Sequence[np.ndarray]) -> OverPictures:
    """Compare two sets of runs on the same resamples, each run what `mean_precision` says of `drawn`; runs are averaged in each.

    What is drawn is pictures, so the luck of training is not in it.
    """
    deltas = np.mean(arm, axis=0) - np.mean(baseline, axis=0)
    resampled = deltas[1:][~np.isnan(deltas[1:])]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return OverPictures(float(deltas[0]), float(resampled.std(ddof=1)), float(low), float(high))
