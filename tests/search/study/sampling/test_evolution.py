"""Evolution: it finds what is good sooner than chance, keeps its state in the study, and costs little."""

from __future__ import annotations

import itertools
import statistics
import time
from random import Random
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial

from search.study.sampling.evolution import EvolutionSampler, mutate, random_value

TARGET = ("none", "pssa", "conv+pssa", "none", "none", "conv+pssa")


def landscape(params: dict[str, Any]) -> float:
    """Six sites, one best placement out of 729; each right one counts, and neighbours of a right pair add."""
    hits = [params[name] == wanted for name, wanted in zip(SITES, TARGET, strict=True)]
    return sum(hits) + 0.5 * sum(a and b for a, b in itertools.pairwise(hits))


def trials_to_the_best(sampler: optuna.samplers.BaseSampler, budget: int = 200) -> int:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for number in range(1, budget + 1):
        trial = study.ask(SITES)  # type: ignore[arg-type]
        value = landscape(trial.params)
        study.tell(trial, value)
        if value == 8.5:
            return number
    return budget


@pytest.mark.slow
def test_it_finds_the_best_placement_sooner_than_chance() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    evolved = [trials_to_the_best(EvolutionSampler(seed=seed)) for seed in range(20)]
    drawn = [trials_to_the_best(RandomSampler(seed=seed)) for seed in range(20)]
    assert statistics.fmean(evolved) * 2 < statistics.fmean(drawn)


def run(sampler: EvolutionSampler, study: optuna.Study, many: int) -> list[dict[str, Any]]:
    study.sampler = sampler
    points = []
    for _ in range(many):
        trial = study.ask(MIXED)
        points.append(trial.params)
        study.tell(trial, [float(len(trial.params["placement.at.two"]))] * len(study.directions))
    return points


def test_one_seed_gives_one_sequence() -> None:
    first, second, third = (run(EvolutionSampler(seed=s), optuna.create_study(), 25) for s in (1, 1, 2))
    assert first == second
    assert first != third


def test_the_state_is_the_studys() -> None:
    study, copy = optuna.create_study(), optuna.create_study()
    run(EvolutionSampler(seed=1), study, 25)
    copy.add_trials(study.trials)
    worn, fresh = EvolutionSampler(seed=5), EvolutionSampler(seed=5)
    other = optuna.create_study()
    run(worn, other, 3)
    worn._rng, worn._independent = fresh._rng.__class__(), fresh._independent
    worn._rng.setstate(fresh._rng.getstate())
    assert run(worn, study, 5) == run(fresh, copy, 5)


def test_a_small_space_is_exhausted_without_a_repetition() -> None:
    space: Any = {name: SITES[name] for name in list(SITES)[:3]}
    study = optuna.create_study(sampler=EvolutionSampler(seed=0))
    for number in range(27):
        trial = study.ask(space)
        state = [TrialState.COMPLETE, TrialState.PRUNED][number % 3 == 2]
        study.tell(trial, 1.0 * number if state == TrialState.COMPLETE else None, state=state)
    points = [tuple(trial.params.values()) for trial in study.trials]
    assert len(set(points)) >= 26  # the very first point is drawn before the space is known
    study.tell(study.ask(space), 1.0)  # and when there is nothing new, it proposes something old


def test_running_trials_are_not_proposed_again() -> None:
    study = optuna.create_study(sampler=EvolutionSampler(seed=0, n_startup_trials=1))
    study.tell(study.ask({"a": SITES["placement.at.stage1"]}), 1.0)
    first = study.trials[0].params["a"]
    asked = [study.ask({"a": SITES["placement.at.stage1"]}).params["a"] for _ in range(2)]
    assert {first, *asked} == {"none", "conv+pssa", "pssa"}


def test_the_population_is_the_youngest_complete_trials() -> None:
    study = optuna.create_study(
        direction="maximize", sampler=EvolutionSampler(population_size=5, n_startup_trials=5, seed=0)
    )
    space: Any = {"x": FloatDistribution(0.0, 1000.0)}
    for number, state in enumerate([TrialState.COMPLETE] * 10 + [TrialState.FAIL, TrialState.PRUNED] * 5):
        value = 1000.0 - number if state == TrialState.COMPLETE else None
        study.add_trial(create_trial(state=state, value=value, params={"x": 1.0 * number}, distributions=space))
    sampler = study.sampler
    assert isinstance(sampler, EvolutionSampler)
    seen: list[list[int]] = []
    child = sampler._child
    sampler._child = lambda order, *rest: (seen.append([t.number for t in order]), child(order, *rest))[1]  # type: ignore[method-assign]
    study.ask(space)
    assert seen[0] == [5, 6, 7, 8, 9]  # best first; 0 to 4 were better and are too old


def test_fixed_parameters_are_kept_and_the_others_evolve() -> None:
    study = optuna.create_study(sampler=EvolutionSampler(seed=0))
    run(study.sampler, study, 15)  # type: ignore[arg-type]
    study.enqueue_trial({"placement.at.stage1": "pssa", "train.lr": 0.5})
    trial = study.ask(MIXED)
    assert (trial.params["placement.at.stage1"], trial.params["train.lr"]) == ("pssa", 0.5)
    assert set(trial.params) == set(MIXED)


def test_a_parameter_that_the_parent_lacks_is_drawn() -> None:
    study = optuna.create_study(sampler=EvolutionSampler(seed=0, n_startup_trials=3))
    ranks = set()
    for _ in range(40):
        trial = study.ask()
        if trial.suggest_categorical("placement.at.one", ["none", "pssa"]) == "pssa":
            ranks.add(trial.suggest_int("rank", 1, 4))
        study.tell(trial, len(trial.params))
    assert ranks == {1, 2, 3, 4}


def test_a_wider_range_and_a_new_parameter_are_taken_up() -> None:
    study = optuna.create_study(sampler=EvolutionSampler(seed=0, n_startup_trials=2))
    for _ in range(5):
        study.tell(study.ask({"x": FloatDistribution(0, 1)}), 1.0)
    values = [study.ask({"x": FloatDistribution(0, 9), "y": FloatDistribution(0, 1)}).params for _ in range(20)]
    assert any(point["x"] > 1 for point in values)


def test_several_objectives_by_front_and_crowding() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=EvolutionSampler(seed=0))
    for _ in range(120):
        trial = study.ask(SITES)  # type: ignore[arg-type]
        study.tell(trial, [landscape(trial.params), sum(v != "none" for v in trial.params.values())])
    front = {tuple(trial.values) for trial in study.best_trials}
    assert (8.5, 3.0) in front
    assert len(front) >= 3


def test_a_broken_constraint_loses() -> None:
    study = optuna.create_study(
        sampler=EvolutionSampler(seed=0, n_startup_trials=2, population_size=4, tournament_size=4)
    )
    space: Any = {"x": FloatDistribution(0.0, 100.0), **SITES}
    for number, broken in enumerate([5.0, 0.0, 0.0, 1.0]):
        params = {"x": 10.0 * number, **dict.fromkeys(SITES, "none")}
        study.add_trial(
            create_trial(value=number, params=params, distributions=space, system_attrs={"constraints:macs": broken})
        )
    parents = {study.ask(space).params["x"] for _ in range(12)}
    assert 10.0 in parents
    assert not parents & {0.0, 20.0, 30.0}


@pytest.mark.slow
def test_a_proposal_stays_cheap() -> None:
    study = optuna.create_study(sampler=EvolutionSampler(seed=0))
    rng = Random(0)
    for _ in range(5000):
        params = {name: random_value(dist, rng) for name, dist in MIXED.items()}
        study.add_trial(create_trial(value=rng.random(), params=params, distributions=MIXED))
    study.ask(MIXED)  # reads the study
    spent = []
    for _ in range(10):
        begin = time.process_time()
        study.ask(MIXED)
        spent.append(time.process_time() - begin)
    assert min(spent) < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"population_size": 0}, "population_size=0"),
        ({"mutations": 1.5}, r"mutations=1\.5"),
        ({"tournament_size": 50}, "more than population_size=20"),
    ],
)
def test_a_wrong_argument_is_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvolutionSampler(**arguments)


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
