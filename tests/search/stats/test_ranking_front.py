"""The law of a Pareto front, on any points."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from search.stats.ranking import on_front

VALUES = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6), st.just(float("nan")))  # ties are frequent
CASES = st.integers(1, 4).flatmap(
    lambda axes: st.tuples(
        st.lists(st.lists(VALUES, min_size=axes, max_size=axes), max_size=12),
        st.lists(st.booleans(), min_size=axes, max_size=axes),
    )
)


def dominates(one: list[float], other: list[float], higher: list[bool]) -> bool:
    signed = [(a, b) if up else (-a, -b) for a, b, up in zip(one, other, higher, strict=True)]
    return all(a >= b for a, b in signed) and any(a > b for a, b in signed)


@given(CASES)
def test_no_member_is_dominated_every_other_is_by_a_member_and_missing_values_are_out(
    case: tuple[list[list[float]], list[bool]],
) -> None:
    points, higher = case
    found = on_front(np.array(points, dtype=float).reshape(len(points), len(higher)), higher)
    assert len(found) == len(points)
    whole = [point for point in points if not np.isnan(point).any()]
    members = [point for point, member in zip(points, found, strict=True) if member]
    for point, member in zip(points, found, strict=True):
        assert (member is None) == bool(np.isnan(point).any())
        if member is True:
            assert not any(dominates(other, point, higher) for other in whole)
        if member is False:
            assert any(dominates(other, point, higher) for other in members)
    assert bool(members) == bool(whole)


def test_equal_points_stand_together_and_each_direction_counts() -> None:
    points = np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 3.0], [0.0, 2.0]])
    assert on_front(points, [True, False]) == [True, True, True, False]
    assert on_front(points, [False, False]) == [False, False, False, True]
    assert on_front(points, [True, True]) == [False, False, True, False]
