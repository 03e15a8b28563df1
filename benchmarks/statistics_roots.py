"""Section of `statistics_truth.py` on arms that go on from trained networks: orders nested in roots."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from statistics_simulate import Row, agree, line

from search.stats.inference import adjusted_p_values
from search.stats.nested import NestedDifference, over_roots
from search.stats.paired import ALPHA, PairedDifference, compared

__all__ = ["roots"]

EFFECT = 0.5  # points, of the first half of the rows; the others do not differ
LUCK_OF_A_ROOT = 3.0  # points, sd: what a root does to all that go on from it


class Setting(NamedTuple):
    """Roots, orders of each, rows of the table, and the sd of a paired difference between roots and between orders within one."""

    roots: int
    orders: int
    rows: int
    between: float
    within: float
    lost: int = 0  # pairs that never finished

    def __str__(self) -> str:
        lost = f", {self.lost} pairs lost" if self.lost else ""
        return f"{self.roots} roots x {self.orders}, {self.rows} rows, sd {self.between:g} / {self.within:g}{lost}"


SETTINGS = (
    Setting(3, 3, 4, 0.5, 0.5),
    Setting(5, 1, 4, 0.5, 0.5),
    Setting(5, 2, 4, 0.0, 0.5),
    Setting(5, 2, 4, 0.25, 0.5),
    Setting(5, 2, 4, 0.5, 0.25),
    Setting(5, 4, 4, 0.5, 0.25),
    Setting(5, 2, 12, 0.5, 0.5),
    Setting(10, 2, 4, 0.5, 0.5),
    Setting(10, 4, 12, 1.0, 0.25),
    Setting(5, 3, 4, 0.5, 0.5, lost=4),
)


def roots(rng: np.random.Generator, studies: int) -> list[Row]:
    """How often intervals of the three tests hold the truth, and how often a table finds what is not there."""
    return [row for setting in SETTINGS for row in _figures(rng, setting, studies)]


def _figures(rng: np.random.Generator, setting: Setting, studies: int) -> list[Row]:
    effects = np.where(np.arange(setting.rows) < setting.rows // 2, EFFECT, 0.0)
    baseline, arms, of_root = _studies(rng, setting, effects, studies)
    first, second = arms.reshape(-1, len(of_root)), np.repeat(baseline, setting.rows, axis=0)
    judged = over_roots(first, second, of_root)
    mixed = [each.mixed for each in judged]
    pairs = compared(first, second)
    truth = np.tile(effects, studies)
    name, where = "orders nested in roots", f"{setting}"
    open_, near, least = ("", (0.0, 1.0)), ("0.93 to 0.97", (0.93, 0.97)), ("at least 0.93", (0.93, 1.0))
    held_to = near if not setting.lost else least
    ways: tuple[tuple[str, list[tuple[float, float, float]], tuple[str, tuple[float, float]]], ...] = (
        ("t over root means (default)", list(map(_ends, judged)), held_to),
        ("mixed model", [(each.low or 0.0, each.high or 0.0, each.p_value or 0.0) for each in mixed], least),
        ("for comparison, t over all pairs", list(map(_ends, pairs)), open_),
    )
    rows = []
    for what, figures, target in ways:
        low, high, p = (np.array(column) for column in zip(*figures, strict=True))
        held = ((low <= truth) & (truth <= high)).reshape(studies, -1)
        rows.append(line(name, f"{what}: 95% interval holds the truth", where, held[:, 0], *target))
        null = "at least 0.93" if target != open_ else ""
        rows.append(
            line(
                name,
                f"{what}: a planted null's interval holds 0",
                where,
                held[:, -1],
                null,
                least[1] if null else (0, 1),
            )
        )
        finding = _holm(p.reshape(studies, -1))
        five = ("at most 0.05", (0.0, 0.05)) if target != open_ else open_
        rows.append(line(name, f"{what}: any false finding (Holm)", where, finding[:, effects == 0].any(axis=1), *five))
        rows.append(
            line(name, f"{what}: {EFFECT:g} points found (Holm)", where, finding[:, effects > 0].mean(axis=1), *open_)
        )
    return rows + _of_spreads(judged, setting, name, where)


def _of_spreads(found: list[NestedDifference], setting: Setting, name: str, where: str) -> list[Row]:
    """How often the intervals of both spreads hold them, on the first row of each study."""
    rows, spreads = [], [each.spreads for each in found[:: setting.rows]]
    for kind, truth in (("within", setting.within), ("between", setting.between)):
        ends = [(getattr(each, f"{kind}_low"), getattr(each, f"{kind}_high")) for each in spreads]
        if ends[0][0] is None:
            continue
        held = np.array([low <= truth <= high for low, high in ends])
        rows.append(
            line(name, f"95% interval of the sd {kind} roots holds it", where, held, "at least 0.93", (0.93, 1.0))
        )
    return rows


def _studies(
    rng: np.random.Generator, setting: Setting, effects: np.ndarray, studies: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Simulate studies: the baseline, studies x pairs; the rows, studies x rows x pairs; and the root of each pair.

    Each arm, the baseline too, has its own luck with a root and with an order: the rows of a table are correlated.
    """
    of_root = np.repeat(np.arange(setting.roots), setting.orders)
    of_root = np.delete(of_root, np.arange(0, 3 * setting.lost, 3))  # the first order of the first root, and so on
    shape = (studies, setting.rows + 1)
    luck = LUCK_OF_A_ROOT * rng.normal(size=(studies, 1, setting.roots))
    own = setting.between / 2**0.5 * rng.normal(size=(*shape, setting.roots))
    noise = setting.within / 2**0.5 * rng.normal(size=(*shape, len(of_root)))
    values = 60 + (luck + own)[:, :, of_root] + noise
    return values[:, 0], values[:, 1:] + effects[:, None], of_root


def _ends(result: PairedDifference) -> tuple[float, float, float]:
    assert result.low is not None
    assert result.high is not None
    assert result.p_value is not None
    return result.low, result.high, result.p_value


def _holm(p_values: np.ndarray) -> np.ndarray:
    """Tell the findings of each study, studies x rows, by Holm's method over its rows."""
    order = p_values.argsort(axis=1)
    left = np.arange(p_values.shape[1], 0, -1)
    adjusted = np.maximum.accumulate(np.take_along_axis(p_values, order, axis=1) * left, axis=1)
    finding = np.empty(p_values.shape, dtype=bool)
    np.put_along_axis(finding, order, adjusted <= ALPHA, axis=1)
    for row, found in zip(p_values[:20], finding[:20], strict=True):
        agree(list(adjusted_p_values(pd.Series(row)) <= ALPHA), found.astype(float))
    return finding
