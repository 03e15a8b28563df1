"""Scores of single images from logits: how sure a network is of the right class, and how well calibrated that is.

N = images, K = classes. All is computed in double precision, from logits of any float type.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

COLDEST, HOTTEST = 0.05, 20.0
"""A fitted temperature stays between these: where every image is classified right the likelihood has no maximum."""
STEPS, TOLERANCE = 60, 1e-9  # of Newton's method; relative, in 1 / temperature


def image_scores(logits: np.ndarray, target: np.ndarray, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Score each image; the mean over images is the network's score.

    Args:
        logits: (N, K), finite.
        target: integers (N,), the true classes.
        names: of "top1" (0 or 100), "p_true" (probability of the true class, 0 to 100), "margin" (that less the largest probability
            of another class, -100 to 100), "nll" (nats), "brier" (Brier 1950: squared distance of the probabilities from the truth,
            0 to 2) and "calibrated_nll" (`calibrated_nll`).

    Returns:
        float64 (N,) by name.
    """
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted)
    total = probabilities.sum(axis=1)
    rows = np.arange(len(target))
    own_logit = shifted[rows, target]
    probabilities /= total[:, None]
    own = probabilities[rows, target]
    found: dict[str, np.ndarray] = {}
    for name in names:
        if name == "top1":
            found[name] = 100.0 * (logits.argmax(axis=1) == target)
        elif name == "p_true":
            found[name] = 100.0 * own
        elif name == "margin":
            others = probabilities.copy()
            others[rows, target] = -np.inf
            found[name] = 100.0 * (own - others.max(axis=1))
        elif name == "nll":
            found[name] = np.log(total) - own_logit
        elif name == "brier":
            apart = probabilities.copy()
            apart[rows, target] -= 1.0
            found[name] = np.einsum("nk,nk->n", apart, apart)
        elif name == "calibrated_nll":
            found[name] = calibrated_nll(logits, target)
        else:
            raise ValueError(f"{name!r} is no score of an image")
    return found


def calibrated_nll(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Negative log-likelihood in nats, (N,), of each image at the temperature that fits the other half of the images best.

    The halves are the images at even and at odd places, so that no image is scored by a temperature fitted to itself. ValueError
    for fewer than two images.
    """
    if len(target) < 2:
        raise ValueError("a calibrated NLL needs two images or more: one half gives the temperature of the other")
    halves = slice(0, None, 2), slice(1, None, 2)
    scores = np.empty(len(target))
    for fitted, scored in (halves, halves[::-1]):
        heated = logits[scored].astype(np.float64) / temperature(logits[fitted], target[fitted])
        scores[scored] = image_scores(heated, target[scored], ["nll"])["nll"]
    return scores


def temperature(logits: np.ndarray, target: np.ndarray) -> float:
    """The temperature that the logits (N, K) are divided by for the largest likelihood of the targets (Guo and others 2017, section 4.2).

    The likelihood has one maximum, since minus its logarithm is convex in 1 / temperature: Newton's method, kept by bisection between
    `COLDEST` and `HOTTEST`. 1 where all logits of each image are equal.
    """
    z = np.ascontiguousarray(logits.T, dtype=np.float64)  # (K, N): sums over classes are fast there
    z -= z.max(axis=0)
    own = z[target, np.arange(len(target))].mean()
    weights = np.empty_like(z)

    def slope_and_bend(beta: float) -> tuple[float, float]:
        np.exp(np.multiply(z, beta, out=weights), out=weights)
        total = weights.sum(axis=0)
        mean = np.multiply(weights, z, out=weights).sum(axis=0) / total
        square = np.multiply(weights, z, out=weights).sum(axis=0) / total
        return float(mean.mean() - own), float((square - mean * mean).mean())

    low, high, beta = 1 / HOTTEST, 1 / COLDEST, 1.0
    tried: set[float] = set()
    for _ in range(STEPS):
        slope, bend = slope_and_bend(beta)
        tried.add(beta)
        low, high = (low, beta) if slope > 0 else (beta, high)
        if slope == 0 or low == high:  # the best, or an end that the best lies beyond
            break
        step = beta - slope / bend if bend > 0 else 0.0
        if not low < step < high:
            end = low if slope > 0 else high
            step = (low + high) / 2 if end in tried else end
        before, beta = beta, step
        if abs(beta - before) <= TOLERANCE * beta:
            break
    return 1 / beta
