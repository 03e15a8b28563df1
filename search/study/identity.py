"""What makes two commands the same study, and how a study takes new parameters, choices or wider ranges.

Optuna fixes the choices of a parameter for the life of a study. So a grown study is a successor, `NAME~2`, that holds
all earlier trials under the new distributions; the old study stays as it was and gets a link to the new one, last of
all. A successor without that link is half made: whoever comes next deletes it and begins again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, distribution_to_json
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.design.trials import trained_on
from search.fingerprint import is_late_default
from search.ledger.metric import CLASSIFY
from search.ledger.secrets import masked_tree
from search.ledger.study_files import JOURNAL
from search.space.parameters import Parameter
from search.study.options import SweeperOptions
from search.study.sampling.samplers import REPORTED
from search.study.spec import StudySpec, storage_of
from search.study.trials import WORKER

ATTRIBUTE = "identity"
REBUILT = "rebuilt"  # of a study that xvol-check wrote anew from its ledger: the next command says what it is about
PARAMS = "hydra.sweeper.params."
SUCCESSOR, PREDECESSOR, SPACE = "successor", "predecessor", "grown_space"
METRIC_NAMES, FIXED = "study:metric_names", "fixed_params"
OF_THE_OLD_SPACE = ("cma:", "cmawm:", "sepcma:")  # state of an optimiser that counts dimensions; it starts anew
OF_THE_RUN = (REPORTED, "completed_rung_")  # marks of a run that did not come to its end; it reports anew
ABSENT = "(absent)"
OF_DATA = tuple(f"data.{name}" for name in ("root", "download", "workers", "probe_size"))
FREE = (*OF_DATA, "tracker.", "device", "ranks", "threads", "checkpoint")  # these change no result


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings under dotted keys; lists are leaves."""
    if isinstance(value, Mapping) and value:
        return {k: v for name, item in value.items() for k, v in flatten(item, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): value}


def _leaves(config: Mapping[str, Any], search: Mapping[str, Any]) -> dict[str, Any]:
    leaves = {
        name: value
        for name, value in flatten(config).items()
        if not name.startswith(FREE) and not is_late_default(name, value)
    }
    if leaves.get("task") == CLASSIFY:
        del leaves["task"]  # studies that were begun before there were others go on
    leaves.update({f"hydra.sweeper.{name}": value for name, value in flatten(search).items()})
    plain: dict[str, Any] = json.loads(json.dumps(masked_tree(leaves), sort_keys=True, default=str))
    return plain


def write_identity(study: optuna.Study, config: Mapping[str, Any], search: Mapping[str, Any]) -> None:
    """Write what the study is about into it."""
    study.set_user_attr(ATTRIBUTE, _leaves(config, search))


def may_change(options: SweeperOptions) -> dict[str, Any]:
    """The settings that a later command of the study may change, and that change what its tables say."""
    final, design = options.final, options.design
    named = {
        "n_trials": options.n_trials,
        "sampler": options.sampler,
        "pruner": options.pruner,
        "constraints": options.constraints,
        "final": {name: getattr(final, name) for name in ("top_k", "seeds", "first_seed", "baseline", "overrides")},
    }
    if design.kind is not None:
        named = {"design": trained_on(design)}
    return flatten(named)


def is_known(spec: StudySpec, config: Mapping[str, Any], search: Mapping[str, Any]) -> bool:
    """Whether this very study stands in the storage already, so that it need not be checked again."""
    if spec.storage is None and not (Path(spec.study_dir) / JOURNAL).exists():
        return False
    storage = storage_of(spec)
    try:
        study_id = storage.get_study_id_from_name(current_name(storage, spec.optuna_name))
    except KeyError:
        return False
    return storage.get_study_user_attrs(study_id).get(ATTRIBUTE) == _leaves(config, search)


def claim_identity(
    study: optuna.Study, folder: str, config: Mapping[str, Any], search: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Write what the study is about into it, or compare with what stands there.

    Returns:
        None, or where nothing but the parameters differ: the values that the earlier trials had for those which are new.

    Raises:
        ValueError: the storage holds another study under this name; the message names the keys that differ.
    """
    mine = _leaves(config, search)
    theirs = study.user_attrs.get(ATTRIBUTE)
    if theirs is None:
        if study.get_trials(deepcopy=False) and not study.user_attrs.get(REBUILT):
            raise ValueError(
                f"{folder} holds an Optuna study of another program under the name {study.study_name!r}; "
                "take another hydra.sweeper.study_name or hydra.sweeper.storage"
            )
        study.set_user_attr(ATTRIBUTE, mine)
        return None
    differ = sorted(name for name in {*mine, *theirs} if mine.get(name, ABSENT) != theirs.get(name, ABSENT))
    if not differ:
        return None
    if not study.get_trials(deepcopy=False):
        study.set_user_attr(ATTRIBUTE, mine)  # nothing was trained under the other settings
        return None
    if all(name.startswith(PARAMS) and name in mine for name in differ):
        return {
            name.removeprefix(PARAMS): theirs[key] for name in differ if (key := name.removeprefix(PARAMS)) in theirs
        }
    lines = [f"  {name}: there {theirs.get(name, ABSENT)}, now {mine.get(name, ABSENT)}" for name in differ[:12]]
    lines += [f"  and {len(differ) - 12} more"] * (len(differ) > 12)
    raise ValueError(
        f"{folder} holds another study: {len(differ)} setting(s) differ, so its trials cannot be counted together.\n"
        + "\n".join(lines)
        + f"\nGive this one a name of its own, e.g. hydra.sweeper.study_name={study.study_name}_2, "
        "or run the command that the study was made with."
    )


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
    """Make the successor of `study` with all parameters, old and new, `new_space`, and return its name.

    All trials keep order, number, values, dates and attributes; running and waiting ones wait. Call it while no worker
    runs trials of the study, under the lock that guards its claims. Called again, also after a crash, it gives the same.

    Args:
        study: the latest of its line, see `current_name`.
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
    old_id, new_id = (storage.get_study_id_from_name(each.study_name) for each in (study, successor))
    if metric_names := storage.get_study_system_attrs(old_id).get(METRIC_NAMES):
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
