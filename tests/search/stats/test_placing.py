"""The best sum under budgets is that of brute force, to the last tie; how sure it is, and whether sums hold, by numbers done by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.stats.placing import (
    MOST_RESAMPLES,
    STEPS,
    Chosen,
    Problem,
    additivity,
    best,
    costs_of,
    in_steps,
    ranked,
    shares,
    tau_interval,
)

POINTS = 4096
INFINITE = float("inf")


def problem_of(sizes: list[int], costs: Any, limits: list[float]) -> Problem:
    """Places of so many uses each."""
    covers = np.repeat(np.eye(len(sizes), dtype=bool), sizes, axis=0)
    return Problem(
        covers, np.array(costs, dtype=np.int64).reshape(len(limits), sum(sizes)), np.array(limits, dtype=float)
    )


def key_of(problem: Problem, gains: np.ndarray, chosen: Chosen) -> tuple[int, ...]:
    """What placements are ordered by, the best first."""
    return (-int(in_steps(gains)[[*chosen]].sum()), *costs_of(problem, chosen), len(chosen), sum(chosen))


def by_brute_force(sizes: list[int], problem: Problem, gains: np.ndarray) -> list[tuple[int, ...]]:
    """The keys of all placements that fit, in order."""
    ends = np.cumsum([0, *sizes])
    uses = [[(), *((at,) for at in range(low, high))] for low, high in itertools.pairwise(ends.tolist())]
    every: list[Chosen] = [tuple(itertools.chain(*picked)) for picked in itertools.product(*uses)]
    assert len(every) <= POINTS
    return sorted(key_of(problem, gains, each) for each in every if problem.fits(each))


@st.composite
def spaces(draw: st.DrawFn) -> tuple[list[int], Problem, np.ndarray]:
    """Up to six places of one to three uses; gains with and without ties; budgets that bind, that do not, and that nothing meets."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=6))
    number, kinds = sum(sizes), draw(st.integers(1, 3))
    coarse = draw(st.booleans())
    gain = st.integers(-2, 2).map(lambda n: 0.1 * n) if coarse else st.floats(-1, 1, allow_subnormal=False)
    gains = np.array(draw(st.lists(gain, min_size=number, max_size=number)))
    cost = st.integers(-3, 3) if draw(st.booleans()) else st.integers(-(10**7), 10**9)
    costs = np.array(draw(st.lists(st.lists(cost, min_size=number, max_size=number), min_size=kinds, max_size=kinds)))
    # limits that placements meet exactly, and those that miss by one
    picked = st.lists(st.booleans(), min_size=number, max_size=number)
    limit = st.one_of(st.just(INFINITE), st.tuples(picked, st.integers(-1, 1)))
    limits = []
    for row in costs:
        drawn = draw(limit)
        limits.append(drawn if isinstance(drawn, float) else float(row[np.array(drawn[0])].sum()) + drawn[1])
    return sizes, problem_of(sizes, costs, limits), gains


@given(spaces())
@settings(max_examples=150, deadline=None)
def test_the_integer_program_is_brute_force(space: tuple[list[int], Problem, np.ndarray]) -> None:
    sizes, problem, gains = space
    expected = by_brute_force(sizes, problem, gains)
    found = ranked(problem, gains, 3)
    assert [key_of(problem, gains, each) for each in found] == expected[:3]
    assert all(problem.fits(each) for each in found)
    assert len(set(found)) == len(found)


def test_a_space_of_4096_points_under_several_budgets() -> None:
    random = np.random.default_rng(3)
    sizes = [3] * 6
    gains = random.normal(0, 0.01, 18)
    costs = random.integers(-20_000, 200_000, (2, 18))
    for share in (-0.2, 0.0, 0.3, 0.6, 1.0):
        problem = problem_of(sizes, costs, [share * costs[0].max() * 3, INFINITE])
        expected = by_brute_force(sizes, problem, gains)
        assert [key_of(problem, gains, each) for each in ranked(problem, gains, 2)] == expected[:2]


def test_of_equal_gains_the_cheaper_one_is_taken() -> None:
    gains = np.array([0.1, 0.3, 0.1 + 0.2, 0.0])  # 0.3 is not 0.1 + 0.2, but for a rounding
    problem = problem_of([3, 1], [[1, 5, 4, 0], [9, 1, 1, 1]], [INFINITE, INFINITE])
    assert best(problem, gains) == (2,)  # what brings nothing adds to the second cost
    assert best(problem_of([3, 1], [[1, 4, 4, 0], [9, 1, 1, 0]], [INFINITE] * 2), gains) == (
        1,
    )  # then the fewest and first


def test_what_saves_pays_for_what_costs() -> None:
    gains = np.array([0.5, -0.1])
    assert best(problem_of([1, 1], [[100, -60]], [50.0]), gains) == (0, 1)
    assert best(problem_of([1, 1], [[100, -60]], [100.0]), gains) == (0,)
    assert best(problem_of([1, 1], [[100, -60]], [39.0]), gains) == ()
    assert best(problem_of([1, 1], [[100, -60]], [-60.0]), gains) == (1,)
    assert best(problem_of([1, 1], [[100, -60]], [-61.0]), gains) is None


def test_one_unit_too_much_is_too_much() -> None:
    costs = [[10**9, 10**9 + 1]]
    assert best(problem_of([2], costs, [10.0**9]), np.array([1.0, 2.0])) == (0,)


def test_places_that_overlap_are_not_taken_together() -> None:
    covers = np.array([[True, False], [False, True], [True, True]])
    problem = Problem(covers, np.zeros((0, 3), dtype=np.int64), np.zeros(0))
    assert best(problem, np.array([1.0, 1.0, 1.5])) == (0, 1)
    assert best(problem, np.array([1.0, 1.0, 2.5])) == (2,)


def test_steps_are_a_millionth_of_the_largest_gain() -> None:
    assert in_steps(np.array([2.0, -1.0, 0.0])).tolist() == [STEPS, -STEPS // 2, 0]
    assert in_steps(np.zeros(2)).tolist() == [0, 0]


def test_shares_over_all_ways_to_draw_three_units() -> None:
    """Of 27 ways the first option has the larger mean where its own unit, worth 3, is drawn as often as any other, or more: 19."""
    problem = problem_of([2], np.zeros((1, 2)), [INFINITE])
    gains = np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert shares(problem, gains) == pytest.approx({(0,): 19 / 27, (1,): 8 / 27})
    assert shares(problem, gains[:1]) == {(0,): 1.0}


def test_shares_of_many_units_are_drawn() -> None:
    problem = problem_of([1], np.zeros((1, 1)), [INFINITE])
    gains = np.random.default_rng(0).normal(0.3, 1.0, (12, 1))
    found = shares(problem, gains)
    assert sum(found.values()) == pytest.approx(1.0)
    assert all(share * MOST_RESAMPLES == pytest.approx(round(share * MOST_RESAMPLES)) for share in found.values())
    assert found == shares(problem, gains)


def test_additivity_by_hand() -> None:
    parts = np.array([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0]])  # means 2, 2, 0
    taken = np.array([[True, False, False], [True, True, False], [True, True, True]])
    measured = np.array([[9.0, 3.0, 5.0], [9.0, np.nan, 7.0]])  # 3 and 6 of the two that have several
    found = additivity(parts, taken, measured)
    assert (found.n, found.mean, found.sd) == (2, pytest.approx((1 - 2) / 2), pytest.approx(3 / 2**0.5))
    assert found.by_noise is None  # of one of them no spread is known
    measured[1, 1] = 3.0
    # predicted 3 and 5 vary by 2 / 2 = 1; measured 3, 3 by 0 and 5, 7 by 2 / 2 = 1
    assert additivity(parts, taken, measured).by_noise == pytest.approx(((1 + 0 + 1 + 1) / 2) ** 0.5)
    assert additivity(parts, taken[:1], measured[:, :1]).mean is None


def test_tau_over_arms_and_units() -> None:
    random = np.random.default_rng(1)
    parts = np.tile([1.0, 2.0, 4.0], (3, 1))
    taken = np.array([list(map(bool, row)) for row in itertools.product((0, 1), repeat=3)][1:])
    exact = np.tile(taken @ parts[0], (4, 1))
    assert tau_interval(parts, taken, exact, resamples=50) == pytest.approx((1.0, 1.0))
    noisy = exact[:1] + random.normal(0, 5, exact.shape)
    low, high = tau_interval(parts, taken, noisy, resamples=200) or (0, 0)
    fewer = tau_interval(parts, taken, noisy.mean(axis=0)[None], resamples=200) or (0, 0)
    assert -1 <= low < fewer[0] < high <= 1  # seeds are drawn again too
    none = tau_interval(parts, taken, np.zeros_like(exact), resamples=10)
    assert none is None  # where all are equal there is no order
