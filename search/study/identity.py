"""What makes two commands the same study, and which keys tell them apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from search.design.options import first_seeds
from search.ledger.paths import JOURNAL
from search.ledger.secrets import masked_tree
from search.study.growth import current_name
from search.study.options import SweeperOptions
from search.study.plan import Plan, storage_of

__all__ = ["REBUILT", "claim_identity", "flatten", "is_known", "may_change", "write_identity"]

ATTRIBUTE = "identity"
REBUILT = "rebuilt"  # of a study that xvol-check wrote anew from its ledger: the next command says what it is about
PARAMS = "hydra.sweeper.params."
# where a trial runs and who watches it does not change what it finds
FREE = ("tracker.", "device", "threads", "checkpoint", "data.root", "data.download")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings under dotted keys; lists are leaves."""
    if isinstance(value, Mapping) and value:
        return {k: v for name, item in value.items() for k, v in flatten(item, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): value}


def _leaves(config: Mapping[str, Any], search: Mapping[str, Any]) -> dict[str, Any]:
    leaves = {name: value for name, value in flatten(config).items() if not name.startswith(FREE)}
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
        named = {"design": {"seeds": first_seeds(design), "first_seed": design.first_seed}}
    return flatten(named)


def is_known(plan: Plan, config: Mapping[str, Any], search: Mapping[str, Any]) -> bool:
    """Whether this very study stands in the storage already, so that it need not be checked again."""
    if plan.storage is None and not (Path(plan.study_dir) / JOURNAL).exists():
        return False
    storage = storage_of(plan)
    try:
        study_id = storage.get_study_id_from_name(current_name(storage, plan.optuna_name))
    except KeyError:
        return False
    return storage.get_study_user_attrs(study_id).get(ATTRIBUTE) == _leaves(config, search)


def claim_identity(
    study: optuna.Study, folder: str, config: Mapping[str, Any], search: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Write what the study is about into it, or compare with what stands there.

    Args:
        folder: the study's folder, for the message.
        config: the resolved config that all trials share.
        search: parameters, directions and objectives.

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
    differ = sorted(name for name in {*mine, *theirs} if mine.get(name, _ABSENT) != theirs.get(name, _ABSENT))
    if not differ:
        return None
    if not study.get_trials(deepcopy=False):
        study.set_user_attr(ATTRIBUTE, mine)  # nothing was trained under the other settings
        return None
    if all(name.startswith(PARAMS) and name in mine for name in differ):
        return {
            name.removeprefix(PARAMS): theirs[key] for name in differ if (key := name.removeprefix(PARAMS)) in theirs
        }
    lines = [f"  {name}: there {theirs.get(name, _ABSENT)}, now {mine.get(name, _ABSENT)}" for name in differ[:12]]
    more = f"\n  and {len(differ) - 12} more" if len(differ) > 12 else ""
    raise ValueError(
        f"{folder} holds another study: {len(differ)} setting(s) differ, so its trials cannot be counted together.\n"
        + "\n".join(lines)
        + more
        + f"\nGive this one a name of its own, e.g. hydra.sweeper.study_name={study.study_name}_2, "
        "or run the command that the study was made with."
    )


_ABSENT = "(absent)"
