"""Several studies read as one, where they were trained by one recipe: by the settings in the folders of their trials."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from search.ledger.metric import CLASSIFY
from search.report.reading.load import load_study
from search.report.reading.rows import PHASES

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
    if config.get("task", CLASSIFY) != CLASSIFY:  # as in `recipe_hash`
        found["task"] = config["task"]
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


def load_pooled(paths: Sequence[str | os.PathLike[str]], phase: str | None = None) -> pd.DataFrame:
    """Load one study, or several whose recipe hashes agree.

    Args:
        paths: folders of studies.
        phase: the phase that will be read; by default "final" where any study has it, else "search", else "single".

    Returns:
        The rows of `load_study`, study after study; of several studies only those of `phase`, with `run_dir` relative
        to the working folder instead of to the study's. Where an arm and seed were run by two studies, the table
        counts the first that finished, in the order of `paths`.

    Raises:
        ValueError: a folder is given twice, a study lacks the phase, or the recipes do not agree; the message names
            the settings that differ.
    """
    frames = [load_study(path) for path in paths]
    if len(frames) == 1:
        return frames[0]
    places = [Path(path).resolve() for path in paths]
    twice = sorted({str(path) for path, place in zip(paths, places, strict=True) if places.count(place) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is given more than once: each trial would count twice; give it once")
    phase = phase or next(
        name for name in PHASES[1::-1] + PHASES[2:] if any((f["phase"] == name).any() for f in frames)
    )
    for path, frame in zip(paths, frames, strict=True):
        if not (frame["phase"] == phase).any():
            has = ", ".join(frame["phase"].dropna().unique())
            raise ValueError(
                f"{path} has no trial of phase '{phase}' (it has: {has}), so it cannot be pooled with the others; leave "
                "it out, or choose a phase that all have with --phase"
            )
    read = [frame[frame["phase"] == phase] for frame in frames]
    refuse_other_recipes(paths, read)
    pooled = [
        frame.assign(run_dir=(f"{Path(path)}/" + frame["run_dir"]).astype("string"))
        for path, frame in zip(paths, read, strict=True)
    ]
    whole = pd.concat(pooled, ignore_index=True)
    whole.attrs = {
        "path": ", ".join(map(str, paths)),
        "unreadable": [message for frame in frames for message in frame.attrs["unreadable"]],
    }
    return whole


def recipe_folders(path: str | os.PathLike[str], frame: pd.DataFrame) -> dict[str, Path]:
    """Return, for each recipe hash of a study, the folder of the first trial that has it."""
    first = frame.dropna(subset=["recipe_hash", "run_dir"]).drop_duplicates("recipe_hash")
    return {recipe: Path(path) / place for recipe, place in zip(first["recipe_hash"], first["run_dir"], strict=True)}


def refuse_other_recipes(paths: Sequence[str | os.PathLike[str]], frames: Sequence[pd.DataFrame]) -> None:
    """Raise ValueError where the studies were not all trained by the same recipes."""
    folders = [recipe_folders(path, frame) for path, frame in zip(paths, frames, strict=True)]
    if all(found.keys() == folders[0].keys() for found in folders):
        return
    said = "; ".join(
        f"{path} has {', '.join(sorted(found)) or 'none on record'}" for path, found in zip(paths, folders, strict=True)
    )
    by_recipe = {recipe: folder for found in folders for recipe, folder in found.items()}
    settings = {recipe: recipe_settings(folder) for recipe, folder in by_recipe.items()}
    known = {recipe: values for recipe, values in settings.items() if values is not None}
    keys = differing(list(known.values()))
    if keys:
        each = "; ".join(f"{name} ({' against '.join(map(repr, values))})" for name, values in keys.items())
        why = f"Settings that differ, for recipes {', '.join(known)}: {each}"
    elif len(known) < len(settings):
        unread = [str(folder) for recipe, folder in by_recipe.items() if recipe not in known]
        why = f"The settings cannot be compared: no readable .hydra/config.yaml in {', '.join(unread)}"
    else:
        why = "Their .hydra/config.yaml do not differ: the hashes were made by different versions of the code"
    raise ValueError(
        f"the studies were not trained by one recipe and cannot be pooled: {said}. {why}. Compare two of them with "
        "--diff"
    )
