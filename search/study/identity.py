"""What makes two commands the same study, and which keys tell them apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna

from search.ledger.secrets import masked_tree

__all__ = ["claim_identity", "flatten"]

ATTRIBUTE = "identity"
# where a trial runs and who watches it does not change what it finds
FREE = ("tracker.", "device", "threads", "checkpoint", "data.root", "data.download")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings under dotted keys; lists are leaves."""
    if isinstance(value, Mapping) and value:
        return {k: v for name, item in value.items() for k, v in flatten(item, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): value}


def claim_identity(study: optuna.Study, folder: str, config: Mapping[str, Any], search: Mapping[str, Any]) -> None:
    """Write what the study is about into it, or compare with what stands there.

    Args:
        folder: the study's folder, for the message.
        config: the resolved config that all trials share.
        search: parameters, directions and objectives.

    Raises:
        ValueError: the storage holds another study under this name; the message names the keys that differ.
    """
    leaves = {name: value for name, value in flatten(config).items() if not name.startswith(FREE)}
    leaves.update({f"hydra.sweeper.{name}": value for name, value in flatten(search).items()})
    mine = json.loads(json.dumps(masked_tree(leaves), sort_keys=True, default=str))
    theirs = study.user_attrs.get(ATTRIBUTE)
    if theirs is None:
        if study.get_trials(deepcopy=False):
            raise ValueError(
                f"{folder} holds an Optuna study of another program under the name {study.study_name!r}; "
                "take another hydra.sweeper.study_name or hydra.sweeper.storage"
            )
        study.set_user_attr(ATTRIBUTE, mine)
        return
    differ = sorted(name for name in {*mine, *theirs} if mine.get(name, _ABSENT) != theirs.get(name, _ABSENT))
    if differ:
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
