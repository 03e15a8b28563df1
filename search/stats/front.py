"""The Pareto front: what no other beats in one objective without losing in another.

In a module of its own since a search asks it too, which loads neither pandas nor scipy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def on_front(points: np.ndarray, higher_is_better: Sequence[bool]) -> list[bool | None]:
    """Tell for each point whether it is on the front; None where one of its values is missing, which is compared with none.

    A point dominates another where it is at least as good in every objective, and better in one.

    Args:
        points: float64 (points, objectives); NaN where a value is missing.
        higher_is_better: for each objective which way is better.
    """
    losses = np.where(np.asarray(higher_is_better, dtype=bool), -points, points)
    missing = np.asarray(np.isnan(losses).any(axis=1))
    others = losses[~missing]
    found: list[bool | None] = []
    for loss, unknown in zip(losses, missing, strict=True):
        beaten = ((others <= loss).all(axis=1) & (others < loss).any(axis=1)).any()
        found.append(None if unknown else not bool(beaten))
    return found
