"""Shapley values are those of all orders, sum to the whole, and are refused where a cell is missing."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from search.stats.shapley import shapley, shapley_values

CELLS = st.integers(1, 4).flatmap(lambda parts: arrays(float, (2, 2**parts), elements=st.floats(-100, 100, width=32)))


def by_orders(values: np.ndarray) -> np.ndarray:
    """The definition: what each part adds, averaged over all orders."""
    parts = len(values).bit_length() - 1
    found = np.zeros(parts)
    orders = list(itertools.permutations(range(parts)))
    for order in orders:
        there = 0
        for part in order:
            found[part] += values[there | 1 << part] - values[there]
            there |= 1 << part
    return found / len(orders)


@given(CELLS)
def test_closed_form_is_that_of_all_orders(values: np.ndarray) -> None:
    np.testing.assert_allclose(shapley_values(values), [by_orders(row) for row in values], atol=1e-9)


@given(CELLS)
def test_values_sum_to_the_whole(values: np.ndarray) -> None:
    np.testing.assert_allclose(shapley_values(values).sum(axis=1), values[:, -1] - values[:, 0], atol=1e-9)


def frame_of(factors: dict[str, tuple[str, str]], seeds: int = 5, **drop: Any) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = []
    for seed in range(seeds):
        base = rng.normal(60, 3)
        for levels in itertools.product(*factors.values()):
            on = [level == pair[1] for level, pair in zip(levels, factors.values(), strict=True)]
            value = base + 2 * on[0] - 1 * on[1] + 3 * (on[0] and on[1]) + rng.normal(0, 0.1)
            rows.append({"seed": seed, **dict(zip(factors, levels, strict=True)), "acc": value})
    return pd.DataFrame(rows)


FACTORS = {"conv": ("off", "on"), "attention": ("none", "pssa"), "stage": ("3", "4")}


def test_parts_of_a_known_whole() -> None:
    frame = frame_of(FACTORS)
    found = shapley(
        frame.sample(frac=1, random_state=0).sort_values("conv", kind="stable"), "acc", list(FACTORS)
    ).set_index("term")
    np.testing.assert_allclose(found["estimate"].abs(), [3.5, 0.5, 0.0], atol=0.15)
    wide = frame.pivot_table("acc", "seed", list(FACTORS))
    whole = wide["on", "pssa", "4"] - wide["off", "none", "3"]
    exact = shapley(frame, "acc", list(FACTORS))
    assert exact["estimate"].sum() == pytest.approx(whole.mean())
    assert exact["level"].tolist() == ["on", "pssa", "4"]


def test_intervals_are_paired_over_seeds() -> None:
    frame = frame_of({"conv": ("off", "on"), "attention": ("none", "pssa")})
    wide = frame.pivot_table("acc", "seed", ["conv", "attention"])
    conv = (wide["on", "none"] - wide["off", "none"] + wide["on", "pssa"] - wide["off", "pssa"]) / 2
    low, high = stats.t.interval(0.95, len(conv) - 1, conv.mean(), conv.sem())
    line = shapley(frame, "acc", ["conv", "attention"]).iloc[0]
    assert (line["estimate"], line["low"], line["high"]) == pytest.approx((conv.mean(), low, high))
    assert line["high"] - line["low"] < 1  # the seeds' own level, with a spread of 3, is taken out


def test_what_is_no_full_factorial_is_refused() -> None:
    frame = frame_of(FACTORS)
    gone = frame[~((frame["conv"] == "on") & (frame["attention"] == "pssa") & (frame["stage"] == "4"))]
    with pytest.raises(ValueError, match=re.escape("1 of 8 cells are missing, on x pssa x 4")):
        shapley(gone, "acc", list(FACTORS))
    with pytest.raises(ValueError, match="stage has 3"):
        shapley(pd.concat([frame, frame.head(1).assign(stage="5")]), "acc", list(FACTORS))
    with pytest.raises(ValueError, match="no two seeds"):
        shapley(frame[frame["seed"] == 0], "acc", list(FACTORS))
    with pytest.raises(ValueError, match="not 3"):
        shapley_values(np.zeros((2, 3)))


def test_no_spread_has_no_interval() -> None:
    frame = frame_of({"conv": ("off", "on"), "attention": ("none", "pssa")}).assign(acc=1.0)
    found = shapley(frame, "acc", ["conv", "attention"])
    assert found["estimate"].tolist() == [0.0, 0.0]
    assert found[["se", "low", "high", "p_value"]].isna().all().all()
