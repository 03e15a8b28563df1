"""Samplers and pruners by name: Optuna's and our own, and nothing else is imported; and what a study asks of them.

The pruning rule for several objectives: the intermediate values of the first one decide, as if it were the only one.
Optuna's own `Trial.report` refuses there, so its pruners are shown a view of the study that has one objective.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
import warnings
from collections.abc import Callable, Container, Mapping
from typing import Any, cast

import optuna
from omegaconf import DictConfig
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from search.space.parameters import Space
from search.study.options import WarmStartOptions
from search.study.sampling.evolution import EvolutionSampler
from search.study.trials import INTERRUPTED
from xvol.allowed import nearest

GRID = "optuna.samplers.GridSampler"
BRUTE_FORCE = "optuna.samplers.BruteForceSampler"
EVOLUTION = "search.study.sampling.evolution.EvolutionSampler"
QMC = "optuna.samplers.QMCSampler"
# with the arguments of Optuna's that may stand there
EXHAUSTIVE = {GRID: ("seed",), BRUTE_FORCE: ("seed", "avoid_premature_stop")}


def is_grid(config: Mapping[str, Any] | None) -> bool:
    """Whether every point of the space is asked for.

    Brute force is: Optuna's sampler of that name ends a study by `Study.stop`, which raises outside of Optuna's own
    loop, and it counts a failed point as done. Our points are written down beforehand, and each gets its result.
    """
    return bool(config) and str(config.get("_target_")) in EXHAUSTIVE  # type: ignore[union-attr]


def make_sampler(config: Mapping[str, Any] | None, stream: int) -> BaseSampler:
    """Build the sampler; None is Optuna's default for the study.

    Args:
        config: `_target_` and arguments.
        stream: distinguishes workers and resumptions, so that one `seed` never gives two of them the same numbers. Only
            a quasi-random sequence is one for all of them: the study counts its points.

    Raises:
        ValueError: unknown sampler or argument.
    """
    arguments = dict(config or {"_target_": "optuna.samplers.TPESampler"})
    seed = arguments.get("seed")
    if seed is not None:
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ValueError(
                f"hydra.sweeper.sampler.seed={seed}: give a whole number, or null for another one each time"
            )
        seed = (seed + 1_000_003 * stream) % 2**32
    if is_grid(arguments):  # the points are written into the study beforehand; nothing is left to sample
        _check_exhaustive(arguments)
        return optuna.samplers.RandomSampler(seed=seed)
    if arguments.get("_target_") == QMC:
        arguments.setdefault("independent_sampler", optuna.samplers.RandomSampler(seed=seed))
    elif seed is not None:
        arguments["seed"] = seed
    sampler = _build("hydra.sweeper.sampler", optuna.samplers, optuna.samplers.BaseSampler, arguments)
    assert isinstance(sampler, optuna.samplers.BaseSampler)
    return sampler


def _check_exhaustive(arguments: Mapping[str, Any]) -> None:
    takes = EXHAUSTIVE[arguments["_target_"]]
    wrong = sorted(name for name in arguments if not name.startswith("_") and name not in takes)
    if wrong:
        raise ValueError(
            f"hydra.sweeper.sampler: {arguments['_target_'].rpartition('.')[2]} does not take {', '.join(wrong)}; it takes "
            f"{', '.join(takes)}. What it goes through is hydra.sweeper.params and the sweeps of the command line"
        )


def make_pruner(config: Mapping[str, Any] | None) -> BasePruner:
    """Build the pruner; None never prunes. A wrapped pruner is given as a nested mapping with its own `_target_`.

    Raises:
        ValueError: unknown pruner or argument.
    """
    if not config:
        return optuna.pruners.NopPruner()
    arguments = {
        name: make_pruner(value) if isinstance(value, Mapping) and "_target_" in value else value
        for name, value in config.items()
    }
    pruner = _build("hydra.sweeper.pruner", optuna.pruners, optuna.pruners.BasePruner, arguments)
    assert isinstance(pruner, optuna.pruners.BasePruner)
    return pruner


def _build(key: str, module: Any, base: type, config: Mapping[str, Any]) -> Any:
    arguments = {name: value for name, value in config.items() if not name.startswith("_")}
    allowed = {
        f"{module.__name__}.{name}": kind
        for name in module.__all__
        if inspect.isclass(kind := getattr(module, name)) and issubclass(kind, base) and kind is not base
    }
    target = str(config.get("_target_", ""))
    own = ""
    if key.endswith(".sampler"):
        own = f", or {EVOLUTION}"
        if target in (EVOLUTION, EVOLUTION.rpartition(".")[2]):
            allowed[target] = EvolutionSampler
    if target not in allowed:
        names = sorted(path.rpartition(".")[2] for path in allowed)
        near = nearest(target.rpartition(".")[2], [*names, "EvolutionSampler"])
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(
            f"{key}._target_={target or 'missing'}: give {module.__name__}.NAME with NAME one of {', '.join(names)}{own}{hint}"
        )
    kind, name = allowed[target], target.rpartition(".")[2]
    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        takes = [p for p in inspect.signature(kind).parameters if not p.startswith("_")]
        raise ValueError(f"{key}: {name} {error}; it takes {', '.join(takes) or 'no arguments'}") from None
    with warnings.catch_warnings():  # which of Optuna's own defaults are experimental is not the user's doing
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        try:
            return kind(**arguments)
        except (TypeError, ValueError) as error:
            given = ", ".join(f"{argument}={value!r}" for argument, value in arguments.items())
            raise ValueError(f"{key}: {name}({given}): {error}") from None


def suggest(trial: Trial, name: str, distribution: Any) -> Any:
    """A value for the parameter `name`."""
    kinds = optuna.distributions
    if isinstance(distribution, kinds.CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, kinds.IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def custom_space(dotted: str) -> Callable[[DictConfig, Trial], None]:
    """The function that `hydra.sweeper.custom_search_space` names; ValueError where there is none."""
    module, _, name = dotted.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"hydra.sweeper.custom_search_space={dotted}: give package.module.function ({error})"
        ) from None
    if not callable(function):
        raise ValueError(f"hydra.sweeper.custom_search_space={dotted}: it is no function but {type(function).__name__}")
    return function


log = logging.getLogger("xvol")


def first_points(
    options: WarmStartOptions,
    space: Space,
    compose: Callable[[list[str]], DictConfig],
    score: Callable[[DictConfig, list[str]], dict[str, float]],
) -> list[dict[str, Any]]:
    """The `top` of `candidates` random points, the highest score first.

    Args:
        compose: from overrides to a trial's config.
        score: scores of an untrained network by their names; ValueError for one that is not known.
    """
    assert options.score is not None
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points: dict[str, dict[str, Any]] = {}
    for _ in range(options.candidates):
        trial = study.ask()
        point = {p.name: suggest(trial, p.name, p.distribution) for p in space.parameters}
        points.setdefault(repr(sorted(point.items())), point)
    log.info("scoring %d untrained networks by %s, for the first %d trials", len(points), options.score, options.top)
    scored = []
    for point in points.values():
        value = score(compose(space.overrides(point)), [options.score])[options.score]
        if value == value:  # a score that is no number says nothing
            scored.append((value, point))
    scored.sort(key=lambda pair: -pair[0])
    return [point for _, point in scored[: options.top]]


# A value of a study with several objectives is kept under this system attribute. As Optuna's intermediate value it would
# break TPE, which asks a study with pruned trials for its only direction.
REPORTED = "reported:"


class Pruning:
    """Takes a trial's intermediate values and asks the pruner about them.

    A trial that was interrupted and is run again under another number, and a finished one that never reported (its
    result was reused), are no rivals of anybody.

    Args:
        study: of one or several objectives.
        pruner_config: as of `hydra.sweeper.pruner`; None never prunes.

    Raises:
        ValueError: unknown pruner or argument.
    """

    def __init__(self, study: optuna.Study, pruner_config: Mapping[str, Any] | None) -> None:
        self._storage = study._storage
        self._several = len(study.directions) > 1
        self._pruner = make_pruner(pruner_config) if pruner_config else None
        self._rivals = _FirstObjective(self._storage, self._several)
        self._view = optuna.Study(
            study.study_name, cast(BaseStorage, self._rivals), sampler=study.sampler, pruner=self._pruner
        )

    def report(self, trial: Trial | FrozenTrial, step: int, value: float) -> None:
        """Keep the first objective's value after `step`. Of two reports of one step the first one counts.

        Raises:
            ValueError: `step` is no whole number from 0, or `value` is no number.
        """
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(f"step={step!r}: a step is a whole number from 0, e.g. the epoch")
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"value={value!r} at step {step}: report the first objective as a number") from None
        if step in self._rivals.get_trial(trial._trial_id).intermediate_values:
            return
        if self._several:
            self._storage.set_trial_system_attr(trial._trial_id, f"{REPORTED}{step}", number)
        else:
            self._storage.set_trial_intermediate_value(trial._trial_id, step, number)

    def should_prune(self, trial: Trial | FrozenTrial) -> bool:
        """Whether the pruner wants the trial stopped, by what it has reported so far."""
        if self._pruner is None:
            return False
        return bool(self._pruner.prune(self._view, self._rivals.get_trial(trial._trial_id)))


class _FirstObjective:
    """A storage as it would be if the first objective were the only one; writes go through to the storage."""

    def __init__(self, storage: BaseStorage, several: bool) -> None:
        self._inner, self._several = storage, several
        self._finished: dict[int, FrozenTrial | None] = {}  # they change no more; None is no rival

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._inner.get_study_directions(study_id)[:1]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._shown(self._inner.get_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        every = self._inner.get_all_trials(study_id, deepcopy=False, states=states)
        rivals = [rival for trial in every if (rival := self._rival(trial)) is not None]
        return copy.deepcopy(rivals) if deepcopy else rivals

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return BaseStorage.get_best_trial(cast(BaseStorage, self), study_id)

    def _rival(self, trial: FrozenTrial) -> FrozenTrial | None:
        if not trial.state.is_finished():
            return self._shown(trial)
        number = trial._trial_id
        if number not in self._finished:
            shown = self._shown(trial)
            self._finished[number] = (
                None if trial.user_attrs.get(INTERRUPTED) or not shown.intermediate_values else shown
            )
        return self._finished[number]

    def _shown(self, trial: FrozenTrial) -> FrozenTrial:
        if not self._several:
            return trial
        shown = copy.copy(trial)
        shown.values = trial.values[:1] if trial.values is not None else None
        shown.intermediate_values = {
            int(name.removeprefix(REPORTED)): value
            for name, value in trial.system_attrs.items()
            if name.startswith(REPORTED)
        }
        return shown
