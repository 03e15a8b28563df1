"""Regularised (aging) evolution over placements, as an Optuna sampler without a state of its own.

After Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019, algorithm 1: the
population is the last trials that came to their end, so the oldest dies whatever its value; the best of a random
sample of it becomes the parent of one child, which differs by one mutation.

Mutations are made for placements: a branch moves, comes, goes or changes its type. A *site* is a categorical parameter
with a choice that means "nothing placed": those named `placement.at.*` where there are any, else every one. The other
parameters take a step, or are drawn anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.study.trials import SKIPPED

Known = frozenset[tuple[str, str, Any]]


class EvolutionSampler(BaseSampler):
    """Proposes a mutant of a good trial, and no point twice where it can help it.

    The population is read from the study at each proposal, so any number of workers share it, and a resumed study goes
    on with it. Complete trials alone are in it. A pruned trial has no final value, so it is no parent, but its point is
    not proposed again; nor is that of a running or waiting trial, or of one refused as infeasible. Failed ones are as if
    they had never been. With several objectives the tournament is won by the lower front of non-domination, and within
    a front by the larger crowding distance, both within the population (Deb et al., NSGA-II, 2002). A trial that breaks
    a constraint loses to each that breaks less of it.

    A parameter that the parent does not have, as in a conditional space, is drawn uniformly.

    Args:
        population_size: complete trials that may be parents.
        tournament_size: how many of them, drawn without replacement, compete to be one.
        mutations: mutations of a child.
        plain: choices of a site that mean "nothing placed".
        n_startup_trials: complete trials before the first mutant; until then points are drawn uniformly.
        attempts: how often a point is drawn again that the study has already; every eighth of them adds a mutation.
        seed: of the proposals; None takes another at each start.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        population_size: int = 20,
        tournament_size: int = 5,
        mutations: int = 1,
        plain: str | Sequence[Any] = ("conv", "none"),
        n_startup_trials: int = 10,
        attempts: int = 64,
        seed: int | None = None,
    ) -> None:
        self._population_size, self._tournament_size, self._mutations = population_size, tournament_size, mutations
        self._plain = (plain,) if isinstance(plain, str) else tuple(plain)
        self._n_startup_trials, self._attempts = n_startup_trials, attempts
        for name, value in vars(self).items():
            if name != "_plain" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name.removeprefix('_')}={value!r}: give a whole number from 1")
        if tournament_size > population_size:
            raise ValueError(
                f"tournament_size={tournament_size} is more than population_size={population_size}, from which it is drawn"
            )
        self._rng = Random(seed)
        self._independent = RandomSampler(seed=self._rng.getrandbits(32))
        self._cache = _Points()

    def reseed_rng(self) -> None:
        """Take another seed, as Optuna asks of each of its threads."""
        self._rng.seed()
        self._independent.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every parameter of the study, as its latest trial had it."""
        self._cache.read(study)
        return dict(self._cache.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A child of the population, or a random point at the beginning; fixed parameters stay what they are."""
        if not search_space:
            return {}
        fixed: Point = dict(trial.system_attrs.get("fixed_params") or {})
        complete = self._cache.complete
        parents = complete[-self._population_size :] if len(complete) >= self._n_startup_trials else []
        order = _ranked(parents, study.directions)
        child: Point = {}
        for attempt in range(self._attempts):
            if order:
                extra = attempt * 8 // self._attempts
                child = self._child(order, search_space, fixed, self._mutations + extra)
            else:
                child = {name: random_value(dist, self._rng) for name, dist in search_space.items()}
            if not self._cache.is_known({**child, **fixed}, trial.number):
                break
        return {name: value for name, value in child.items() if name not in fixed}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A uniform draw, for a parameter that the parent does not have."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _child(
        self, order: list[FrozenTrial], space: dict[str, BaseDistribution], fixed: Collection[str], mutations: int
    ) -> Point:
        places = self._rng.sample(range(len(order)), min(self._tournament_size, len(order)))
        child: Point = {
            name: value for name, value in order[min(places)].params.items() if _fits(space.get(name), value)
        }
        for _ in range(mutations):
            child = mutate(child, space, self._plain, fixed, self._rng)
        return child


class _Points:
    """What a study has tried. Trials that are finished do not change, so each of them is read once."""

    def __init__(self) -> None:
        self._study: tuple[BaseStorage, int] | None = None
        self._done: set[Known] = set()
        self._open: dict[int, Known] = {}  # of each trial that has not ended
        self._newest = -1
        self._seen = 0
        self.space: dict[str, BaseDistribution] = {}
        self.complete: list[FrozenTrial] = []

    def read(self, study: Study) -> None:
        storage = study._storage
        if self._study is None or self._study[0] is not storage or self._study[1] != study._study_id:
            self.__init__()  # type: ignore[misc]
            self._study = (storage, study._study_id)
        trials = storage.get_all_trials(study._study_id, deepcopy=False)
        for number in sorted({*self._open, *range(self._seen, len(trials))}):
            trial = trials[number]
            if trial.params and number >= self._newest:
                self._newest = number
                self.space.update(trial.distributions)
            if not trial.state.is_finished():
                self._open[number] = _point({**(trial.system_attrs.get("fixed_params") or {}), **trial.params})
                continue
            self._open.pop(number, None)
            if trial.state != TrialState.FAIL or trial.user_attrs.get(SKIPPED):
                self._done.add(_point(trial.params))
            if trial.state == TrialState.COMPLETE and trial.params:
                self.complete.append(trial)
        self._seen = len(trials)
        self.complete.sort(key=lambda trial: trial.number)

    def is_known(self, point: Point, number: int) -> bool:
        """Whether a trial other than `number` has this point."""
        wanted = _point(point)
        return wanted in self._done or any(there == wanted for n, there in self._open.items() if n != number)


def _point(params: Point) -> Known:
    return frozenset((name, type(value).__name__, value) for name, value in params.items())


def _fits(distribution: BaseDistribution | None, value: Any) -> bool:
    """Whether a parent's value can still be had, also where the study has been given another range."""
    if distribution is None:
        return False
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:
        return False


def _ranked(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
    """The trials from the best to the worst; of equals the younger first."""
    signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
    losses = {trial.number: tuple(s * v for s, v in zip(signs, trial.values, strict=True)) for trial in trials}
    keys: dict[int, tuple[float, ...]] = losses if len(signs) == 1 else _pareto_keys(losses)
    return sorted(trials, key=lambda trial: (_violation(trial), keys[trial.number], -trial.number))


def _violation(trial: FrozenTrial) -> float:
    return sum(value for value in trial.constraints.values() if value > 0)


def _pareto_keys(losses: dict[int, tuple[float, ...]]) -> dict[int, tuple[float, ...]]:
    """(front of non-domination, minus crowding distance) of each trial; the smaller the better."""
    keys: dict[int, tuple[float, ...]] = {}
    left, rank = dict(losses), 0.0
    while left:
        front = [n for n, mine in left.items() if not any(_dominates(other, mine) for other in left.values())]
        crowding = dict.fromkeys(front, 0.0)
        for axis in range(len(losses[front[0]])):
            line = sorted(front, key=lambda n: losses[n][axis])  # sorted at once
            width = losses[line[-1]][axis] - losses[line[0]][axis]
            crowding[line[0]] = crowding[line[-1]] = float("inf")
            if 0 < width < float("inf"):
                for before, n, after in zip(line, line[1:], line[2:], strict=False):
                    crowding[n] += (losses[after][axis] - losses[before][axis]) / width
        keys.update({n: (rank, -crowding[n]) for n in front})
        left = {n: loss for n, loss in left.items() if n not in crowding}
        rank += 1.0
    return keys


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


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
