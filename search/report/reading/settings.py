"""The settings that trials were run with, read from the `.hydra/config.yaml` in their folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

__all__ = ["differing", "recipe_settings"]

RECIPE_PARTS = ("backbone", "data", "train", "measure")  # what `recipe_hash` of search/config.py is made of
NO_RECIPE = frozenset({"data.root", "data.download", "train.state_every_seconds", "measure.zero_cost"})


def recipe_settings(folder: Path) -> dict[str, Any] | None:
    """Return what one trial held equal between arms, by dotted name; None where its folder holds no readable config."""
    try:
        config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    if not isinstance(config, dict):
        return None
    found = flat({part: config[part] for part in RECIPE_PARTS if part in config})
    return {name: value for name, value in found.items() if name not in NO_RECIPE}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name each leaf of nested mappings by its path: {"train": {"lr": 1}} is {"train.lr": 1}."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the names whose values are not equal in all of `settings`, each with its values; "absent" where none."""
    names = list(dict.fromkeys(name for each in settings for name in each))
    values = {name: [each.get(name, "absent") for each in settings] for name in names}
    return {name: given for name, given in values.items() if any(value != given[0] for value in given)}
