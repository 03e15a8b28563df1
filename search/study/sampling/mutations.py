"""Small changes of a point of the search space, made for placements: a branch moves, comes, goes or changes its type.

A *site* is a categorical parameter with a choice that means "nothing placed": those named `placement.at.*` where there
are any, else every one. The other parameters take a step, or are drawn anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from random import Random
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

__all__ = ["Point", "mutate", "random_value"]

Point = dict[str, Any]
SITES = "placement.at."
STEP = 0.1  # standard deviation of a step, as a share of the (logarithmic) range
TRIES = 16


def mutate(
    point: Mapping[str, Any],
    space: Mapping[str, BaseDistribution],
    plain: Collection[Any],
    frozen: Collection[str],
    rng: Random,
) -> Point:
    """A copy of `point` with one mutation; an equal copy where nothing may change.

    With n sites and m other parameters a site is changed with probability n / (n + m), by one of the mutations that are
    possible, all alike: *move* (a placed and a plain site swap), *add*, *drop*, *re-type*.

    Args:
        space: what each parameter of the point may be; a parameter that is not in it stays.
        plain: choices that mean "nothing placed".
        frozen: names of parameters that may not change.
    """
    free = [name for name in point if name in space and name not in frozen and not space[name].single()]
    sites = _sites(free, space, plain)
    others = [name for name in free if name not in sites]
    child = dict(point)
    if sites and rng.random() * len(free) < len(sites):
        changes = _site_changes(child, sites, space, plain, rng)
        if changes:
            child.update(rng.choice(changes)())
            return child
    if others:
        name = rng.choice(others)
        child[name] = _other_value(space[name], child[name], rng)
    return child


def random_value(distribution: BaseDistribution, rng: Random) -> Any:
    """A value drawn uniformly, on the logarithmic scale where the distribution is logarithmic."""
    if isinstance(distribution, CategoricalDistribution):
        return rng.choice(distribution.choices)
    return _at(distribution, rng.random())


def _sites(free: list[str], space: Mapping[str, BaseDistribution], plain: Collection[Any]) -> list[str]:
    able = [
        name
        for name in free
        if isinstance(dist := space[name], CategoricalDistribution)
        and 0 < sum(choice in plain for choice in dist.choices) < len(dist.choices)
    ]
    return [name for name in able if name.startswith(SITES)] or able


def _site_changes(
    point: Point, sites: list[str], space: Mapping[str, BaseDistribution], plain: Collection[Any], rng: Random
) -> list[Callable[[], Point]]:
    """One function for each kind of mutation that is possible; it gives the values that change."""
    choices: dict[str, tuple[Any, ...]] = {name: space[name].choices for name in sites}  # type: ignore[attr-defined]
    placed = [name for name in sites if point[name] not in plain]
    empty = [name for name in sites if point[name] in plain]
    typed = {name: [c for c in choices[name] if c not in plain and c != point[name]] for name in sites}
    moves = [(a, b) for a in placed for b in empty if point[a] in choices[b] and point[b] in choices[a]]

    def move() -> Point:
        a, b = rng.choice(moves)
        return {a: point[b], b: point[a]}

    def add() -> Point:
        name = rng.choice(empty)
        return {name: rng.choice(typed[name])}

    def drop() -> Point:
        name = rng.choice(placed)
        return {name: next(choice for choice in choices[name] if choice in plain)}

    def retype() -> Point:
        name = rng.choice([name for name in placed if typed[name]])
        return {name: rng.choice(typed[name])}

    possible = {
        move: bool(moves),
        add: bool(empty),
        drop: bool(placed),
        retype: any(typed[name] for name in placed),
    }
    return [change for change, can in possible.items() if can]


def _other_value(distribution: BaseDistribution, value: Any, rng: Random) -> Any:
    """Another value: a neighbour or any other, at even odds."""
    if isinstance(distribution, CategoricalDistribution):
        return rng.choice(
            [choice for choice in distribution.choices if choice != value or type(choice) is not type(value)]
        )
    near = rng.random() < 0.5
    if near and isinstance(distribution, IntDistribution) and not distribution.log:
        ends = (value - distribution.step, value + distribution.step)
        return rng.choice([end for end in ends if distribution.low <= end <= distribution.high])
    for _ in range(TRIES):
        place = _place(distribution, value) + rng.gauss(0.0, STEP) if near else rng.random()
        found = _at(distribution, min(1.0, max(0.0, place)))
        if found != value:
            return found
    return distribution.low if value != distribution.low else distribution.high  # type: ignore[attr-defined]


def _ends(distribution: BaseDistribution) -> tuple[float, float]:
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = float(distribution.low), float(distribution.high)
    if isinstance(distribution, IntDistribution) and distribution.log:
        return math.log(low - 0.5), math.log(high + 0.5)
    return (math.log(low), math.log(high)) if distribution.log else (low, high)


def _place(distribution: BaseDistribution, value: float) -> float:
    """Where in the range `value` lies, from 0 to 1."""
    low, high = _ends(distribution)
    return ((math.log(value) if distribution.log else value) - low) / (high - low)  # type: ignore[attr-defined]


def _at(distribution: BaseDistribution, place: float) -> int | float:
    """The value at `place` in [0, 1], rounded to the distribution's step."""
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    step = distribution.step
    if step is not None and not distribution.log:  # every step is as probable as the others
        count = round((distribution.high - distribution.low) / step) + 1
        value = distribution.low + min(count - 1, int(place * count)) * step
        return int(value) if isinstance(distribution, IntDistribution) else float(round(value, 12))
    low, high = _ends(distribution)
    value = low + place * (high - low)
    value = math.exp(value) if distribution.log else value
    value = min(distribution.high, max(distribution.low, value))
    return round(value) if isinstance(distribution, IntDistribution) else float(value)
