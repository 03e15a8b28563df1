"""Simulated studies, and how a figure is summed up: what the sections of `statistics_truth.py` share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

__all__ = ["SD", "Row", "agree", "line", "series", "study"]

SEED_SD, NOISE_SD = 3.0, 1.0
SD = NOISE_SD * 2**0.5  # of a paired difference
Row = dict[str, Any]


def study(rng: np.random.Generator, effects: np.ndarray, n: int, studies: int, noise: str = "normal") -> np.ndarray:
    """Simulate paired differences to a shared baseline: studies x rows x seeds. The seed effect cancels, as it must."""
    shape = (studies, len(effects) + 1, n)
    drawn = rng.normal(size=shape) if noise == "normal" else rng.exponential(size=shape) - 1
    if noise == "skewed baseline":
        drawn[:, 1:] *= 0.2  # nearly all of the difference comes from the skewed baseline: it does not cancel
        drawn /= np.sqrt((1 + 0.04) / 2)
    values = 60 + SEED_SD * rng.normal(size=(studies, 1, n)) + NOISE_SD * drawn
    return values[:, 1:] + effects[:, None] - values[:, :1]


def series(deltas: np.ndarray) -> tuple[pd.Series, pd.Series]:
    """Return an arm and a baseline that differ by `deltas`."""
    base = pd.Series(60.0, index=range(len(deltas)))
    return base + deltas, base


def line(section: str, what: str, setting: str, hits: np.ndarray, target: str, allowed: tuple[float, float]) -> Row:
    """Sum up one figure: the mean over studies, its standard error, and whether the target is met."""
    value, error = float(np.mean(hits)), float(np.std(hits) / np.sqrt(len(hits)))
    low, high = allowed
    sure = "met" if low <= value <= high else "NOT met"
    if sure != "met" and low <= value + 2 * error and value - 2 * error <= high:
        sure = "within two standard errors of it"
    return {
        "section": section,
        "what": what,
        "setting": setting,
        "studies": len(hits),
        "value": value,
        "standard_error": error,
        "target": target,
        "result": sure if target else "",
    }


def agree(ours: list[Any], array: np.ndarray) -> None:
    """Stop where the function of `search.report` and the array arithmetic differ."""
    np.testing.assert_allclose(np.array(ours, dtype=float), array, rtol=1e-6, atol=1e-9)
