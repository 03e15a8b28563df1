"""A study takes a new parameter, a new choice or a wider range, and keeps its trials.

Optuna fixes the choices of a parameter for the life of a study. So a grown study is a successor, `NAME~2`, that holds
all earlier trials under the new distributions; the old study stays as it was and gets a link to the new one, last of
all. A successor without that link is half made: whoever comes next deletes it and begins again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, distribution_to_json
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.space.parameters import Parameter
from search.study.marks import WORKER
from search.study.sampling.pruning import REPORTED

__all__ = ["SUCCESSOR", "current_name", "grow"]

SUCCESSOR, PREDECESSOR, SPACE = "successor", "predecessor", "grown_space"
METRIC_NAMES = "study:metric_names"
FIXED = "fixed_params"
# state of an optimiser that counts on the old number of dimensions; it starts anew
OF_THE_OLD_SPACE = ("cma:", "cmawm:", "sepcma:")
# marks of a run that did not come to its end; it reports anew
OF_THE_RUN = (REPORTED, "completed_rung_")


def current_name(storage: BaseStorage, name: str) -> str:
    """The name of the latest successor of the study `name`; `name` itself where there is none, or no such study."""
    while True:
        try:
            attributes = storage.get_study_user_attrs(storage.get_study_id_from_name(name))
        except KeyError:
            return name
        if SUCCESSOR not in attributes:
            return name
        name = attributes[SUCCESSOR]


def grow(study: optuna.Study, storage: BaseStorage, new_space: Sequence[Parameter], defaults: Mapping[str, Any]) -> str:
    """Make the successor of `study` with the parameters `new_space`, and return its name.

    All trials keep order, number, values, dates and attributes; running and waiting ones wait. Call it while no worker
    runs trials of the study, under the lock that guards its claims. Called again, also after a crash, it gives the same.

    Args:
        study: the latest of its line, see `current_name`.
        storage: that of `study`.
        new_space: all parameters, old and new.
        defaults: parameter name -> the value that the earlier trials really had, for each parameter that is new.

    Raises:
        ValueError: a parameter or choice that trials used is gone, a parameter has changed its kind, a range leaves
            values out, or a new parameter has no default.
    """
    space = {parameter.name: parameter.distribution for parameter in new_space}
    text = {name: distribution_to_json(distribution) for name, distribution in space.items()}
    if study.user_attrs.get(SPACE) == text:
        return study.study_name
    if SUCCESSOR in study.user_attrs:
        latest = optuna.load_study(study_name=current_name(storage, study.study_name), storage=storage)
        return grow(latest, storage, new_space, defaults)
    trials = study.get_trials(deepcopy=False)
    values = _defaults(trials, space, defaults)
    _refuse_what_is_lost(trials, space)
    grown = [_grown(trial, space, values) for trial in trials]

    successor = _empty_successor(study, storage)
    for name, value in study.user_attrs.items():
        if name not in (SPACE, PREDECESSOR):
            successor.set_user_attr(name, value)
    study_id = storage.get_study_id_from_name(study.study_name)
    metric_names = storage.get_study_system_attrs(study_id).get(METRIC_NAMES)
    if metric_names:
        new_id = storage.get_study_id_from_name(successor.study_name)
        storage.set_study_system_attr(new_id, METRIC_NAMES, metric_names)
    for trial in grown:
        successor.add_trial(trial)
    successor.set_user_attr(SPACE, text)
    study.set_user_attr(SUCCESSOR, successor.study_name)
    return successor.study_name


def _empty_successor(study: optuna.Study, storage: BaseStorage) -> optuna.Study:
    """A new study with the next name of the line; what a crash left under that name is deleted."""
    root, generation, name = study.study_name, 2, study.study_name
    while (before := _attributes(storage, name).get(PREDECESSOR)) is not None:
        root, generation, name = before, generation + 1, before
    name = f"{root}~{generation}"
    if name in {there.study_name for there in storage.get_all_studies()}:
        begun = _attributes(storage, name).get(PREDECESSOR) == study.study_name
        if not begun and (_attributes(storage, name) or storage.get_n_trials(storage.get_study_id_from_name(name))):
            raise ValueError(
                f"the study {study.study_name!r} cannot grow: its storage holds another study under the name {name!r}; "
                "delete that one with optuna delete-study, or give this one another hydra.sweeper.study_name"
            )
        optuna.delete_study(study_name=name, storage=storage)
    successor = optuna.create_study(
        study_name=name, storage=storage, directions=study.directions, sampler=study.sampler, pruner=study.pruner
    )
    successor.set_user_attr(PREDECESSOR, study.study_name)
    return successor


def _attributes(storage: BaseStorage, name: str) -> dict[str, Any]:
    return storage.get_study_user_attrs(storage.get_study_id_from_name(name))


def _asked(trial: FrozenTrial) -> dict[str, Any]:
    """What is known of a trial's parameters: those it has, or those it was told to have."""
    return {**(trial.system_attrs.get(FIXED) or {}), **trial.params}


def _defaults(
    trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The value of each parameter that no trial has yet."""
    used = {name for trial in trials for name in _asked(trial)}
    new = [name for name in space if name not in used] if used else []
    missing = [name for name in new if name not in given]
    if missing:
        line = ", ".join(f"{name}: VALUE" for name in missing)
        raise ValueError(
            f"the study holds {len(trials)} trials without {', '.join(missing)}. Say which value they really had, "
            f"one that the new choices or the new range hold: 'hydra.sweeper.old_values={{{line}}}'"
        )
    found = {name: _inside(space[name], given[name]) for name in new}
    for name in new:
        if not found[name]:
            raise ValueError(
                f"the earlier trials had {name}={given[name]!r}, which {_shown(space[name])} does not hold; add it, "
                f"or say which of its values stands for what they had: 'hydra.sweeper.old_values={{{name}: VALUE}}'"
            )
    return {name: values[0] for name, values in found.items()}


def _refuse_what_is_lost(trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution]) -> None:
    lost: dict[str, set[str]] = {}
    for trial in trials:
        for name, value in _asked(trial).items():
            if name not in space:
                lost.setdefault(f"{name} is gone", set()).add("")
                continue
            old, new = trial.distributions.get(name), space[name]
            if old is not None and (type(old) is not type(new) or getattr(old, "log", 0) != getattr(new, "log", 0)):
                lost.setdefault(f"{name} was {_shown(old)} and is now {_shown(new)}", set()).add("")
            elif not _inside(new, value):
                lost.setdefault(f"{name}: {_shown(new)} lacks", set()).add(repr(value))
    if lost:
        lines = [f"  {what} {', '.join(sorted(values)[:8])}".rstrip() for what, values in lost.items()]
        raise ValueError(
            "a study can take parameters, choices and wider ranges, but not lose what its trials have used:\n"
            + "\n".join(lines)
            + "\nBring it back, or give the new search another hydra.sweeper.study_name"
        )


def _inside(distribution: BaseDistribution, value: Any) -> list[Any]:
    """`value` as the distribution writes it, in a list; an empty list where it is not inside."""
    if isinstance(distribution, CategoricalDistribution):
        return [choice for choice in distribution.choices if type(choice) is type(value) and choice == value][:1]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return []
    inner = distribution.to_internal_repr(value)
    return [distribution.to_external_repr(inner)] if distribution._contains(inner) else []


def _grown(trial: FrozenTrial, space: Mapping[str, BaseDistribution], defaults: Mapping[str, Any]) -> FrozenTrial:
    """The trial under the new distributions."""
    system = {name: value for name, value in trial.system_attrs.items() if not name.startswith(OF_THE_OLD_SPACE)}
    if not trial.state.is_finished():
        system = {name: value for name, value in system.items() if not name.startswith(OF_THE_RUN)}
        asked = _asked(trial)
        return create_trial(
            state=TrialState.WAITING,
            user_attrs={name: value for name, value in trial.user_attrs.items() if name != WORKER},
            system_attrs={**system, FIXED: {**asked, **defaults} if asked else {}},
        )
    params = {**trial.params, **(defaults if trial.params else {})}
    grown = create_trial(
        state=trial.state,
        values=trial.values,
        params=params,
        distributions={name: space[name] for name in params},
        user_attrs=trial.user_attrs,
        system_attrs=system,
        intermediate_values=trial.intermediate_values,
    )
    grown.datetime_start, grown.datetime_complete = trial.datetime_start, trial.datetime_complete
    return grown


def _shown(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"choice({', '.join(map(str, distribution.choices))})"
    return str(distribution).replace("Distribution", "")
