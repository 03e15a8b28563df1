"""Mutations: one change at a time, of the kinds that a placement has, and only to what is allowed."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search.study.sampling.mutations import mutate, random_value

PLAIN = ("conv", "none")
SITES = {f"placement.at.stage{n}": CategoricalDistribution(("none", "conv+pssa", "pssa")) for n in range(1, 7)}
MIXED: dict[str, BaseDistribution] = {
    **SITES,
    "placement.at.two": CategoricalDistribution(("conv", "gap")),
    "train.mix": CategoricalDistribution(("none", "cutmix")),
    "train.flag": CategoricalDistribution((True, False, None)),
    "branch.rank": IntDistribution(1, 9, step=2),
    "branch.width": IntDistribution(1, 512, log=True),
    "train.drop": FloatDistribution(0.0, 0.5, step=0.1),
    "train.lr": FloatDistribution(1e-4, 1.0, log=True),
    "train.noise": FloatDistribution(-1.0, 1.0),
    "fixed.one": IntDistribution(3, 3),
}


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.sets(st.sampled_from(sorted(MIXED)), max_size=4))
def test_a_child_differs_by_one_mutation_and_is_allowed(seed: int, frozen: set[str]) -> None:
    rng = Random(seed)
    point = {name: random_value(dist, rng) for name, dist in MIXED.items()}
    child = mutate(point, MIXED, PLAIN, frozen, rng)
    changed = [name for name in MIXED if (child[name], type(child[name])) != (point[name], type(point[name]))]
    assert list(child) == list(point)
    assert not frozen & set(changed)
    assert all(MIXED[name]._contains(MIXED[name].to_internal_repr(value)) for name, value in child.items())
    if len(changed) == 1:
        return
    assert len(changed) == 2, changed  # a move, the only mutation of two parameters
    a, b = sorted(changed, key=lambda name: point[name] in PLAIN)
    assert a.startswith("placement.at.")
    assert b.startswith("placement.at.")
    assert point[a] not in PLAIN
    assert point[b] in PLAIN
    assert (child[a], child[b]) == (point[b], point[a])


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        (["none"] * 6, {"add"}),
        (["pssa"] * 6, {"drop", "re-type"}),
        (["pssa", *["none"] * 5], {"move", "add", "drop", "re-type"}),
    ],
)
def test_every_mutation_of_sites_occurs(values: list[str], kinds: set[str]) -> None:
    point = dict(zip(SITES, values, strict=True))
    seen = set()
    for seed in range(200):
        child = mutate(point, SITES, PLAIN, (), Random(seed))
        change = [(point[name], child[name]) for name in SITES if point[name] != child[name]]
        if len(change) == 2:
            seen.add("move")
        else:
            ((old, new),) = change
            seen.add("add" if old in PLAIN else "drop" if new in PLAIN else "re-type")
    assert seen == kinds


def test_without_placement_keys_every_choice_with_a_plain_one_is_a_site() -> None:
    space = {name.rpartition(".")[2]: dist for name, dist in SITES.items()}
    point = dict(zip(space, ["pssa", *["none"] * 5], strict=True))
    moved = [mutate(point, space, PLAIN, (), Random(seed)) for seed in range(50)]
    assert any(list(child.values()).count("none") == 5 and child["stage1"] == "none" for child in moved)


def test_a_point_that_may_not_change_stays() -> None:
    space: dict[str, BaseDistribution] = {"a": IntDistribution(1, 1), "b": IntDistribution(1, 2)}
    assert mutate({"a": 1, "b": 2}, space, PLAIN, ("b",), Random(0)) == {"a": 1, "b": 2}


@given(st.integers(0, 2**32))
def test_random_values_are_allowed(seed: int) -> None:
    rng = Random(seed)
    for dist in MIXED.values():
        assert dist._contains(dist.to_internal_repr(random_value(dist, rng)))
