"""Many differences at once are those that one at a time gives."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.report.statistics.paired import differences
from search.report.statistics.stats import difference
from search.report.values import ArmValues, median

NUMBER = st.sampled_from([60.0, 60.5, 61.25, 59.0, 0.0])
SERIES = st.dictionaries(st.integers(0, 5), NUMBER)


def arm(values: dict[int, float]) -> ArmValues:
    seeds = np.array(sorted(values), dtype=np.int64)
    numbers = np.array([values[seed] for seed in sorted(values)], dtype=float)
    nothing = dict.fromkeys(("params", "macs", "latency_ms", "latency_fused_ms", "latency_exclusive"))
    return ArmValues(
        values=numbers,
        seeds=seeds,
        failed=seeds[:0],
        all_seeds=seeds,
        statuses=["ok"] * len(seeds),
        **nothing,  # type: ignore[arg-type]
    )


def series(values: dict[int, float]) -> pd.Series:  # type: ignore[type-arg]
    return pd.Series(values, dtype=float, index=pd.Index(list(values), dtype="int64")).sort_index()


@settings(deadline=None, max_examples=40)
@given(arms=st.lists(SERIES, min_size=1, max_size=5), reference=SERIES)
def test_each_is_the_difference_of_two_series(arms: list[dict[int, float]], reference: dict[int, float]) -> None:
    found = differences([arm(values) for values in arms], arm(reference))
    for result, values in zip(found, arms, strict=True):
        expected = difference(series(values), series(reference))
        for ours, theirs in zip(astuple(result), astuple(expected), strict=True):
            assert ours == (None if theirs is None else pytest.approx(theirs, rel=1e-9, abs=1e-12))


@given(st.lists(NUMBER, max_size=6))
def test_median(values: list[float]) -> None:
    found = median(np.array([*values, np.nan], dtype=float))
    assert found == (float(np.median(values)) if values else None)
