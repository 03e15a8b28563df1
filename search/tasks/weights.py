"""Weights that a network begins with: of a file of the plain network, or of a trial of classification that has the same blocks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import xvol  # noqa: F401  # before timm, where torch is a CPU build: see xvol/timm_hook.py

# isort: split
from timm.models import load_state_dict
from torch import Tensor, nn

from search.config import Architecture, Config
from search.ledger.metric import CLASSIFY
from search.ledger.result import RESULT_FILE, TrialResult, read_result
from search.ledger.study_files import CHECKPOINT_FILE, NO_TRIALS_INSIDE

COUNTS = ".num_batches_tracked"  # which old files and frozen norms lack
_GAMMA = re.compile(r" gamma=[^;\s]+")  # in an arm's name: of weights that are about to be replaced


def start_from_file(model: nn.Module, weights: str, key: str = "backbone.weights") -> None:
    """Load the tensors of a file, but for a head of another number of classes; of a network without one, those that it has.

    Raises:
        ValueError: they are another network's; `key` of the config names the file.
    """
    state, own, of_head = _read(weights, f"{key}={weights}"), model.state_dict(), _head(model)
    needed = (
        list(own) if of_head is None else [name for name in {**own, **state} if name.rpartition(".")[0] not in of_head]
    )
    fits = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    wrong = [name for name in needed if name not in fits and not name.endswith(COUNTS)]
    if wrong:
        raise ValueError(
            f"{key}={weights}: not of the plain {type(model).__name__} that backbone.name builds; {len(wrong)} tensors "
            f"are missing, of another shape or of no use there, such as {', '.join(wrong[:3])}"
        )
    model.load_state_dict(fits, strict=False)


def start_from_trial(model: nn.Module, config: Config, architecture: Architecture) -> None:
    """Load all but the head of a backbone with its blocks from the trial that `backbone.checkpoint` names.

    Raises:
        ValueError: there is no such trial, or it has other blocks, or another backbone.
    """
    file, place = checkpoint_of(config, architecture), config.backbone.checkpoint
    state, own, of_head = _read(str(file), f"backbone.checkpoint={place}"), model.state_dict(), _head(model)
    needed = [name for name in own if name.rpartition(".")[0] not in (of_head or ())]
    wrong = [name for name in needed if name not in state or state[name].shape != own[name].shape]
    sites = tuple(f"{site}." for site in architecture.sites)
    wrong += [name for name in state if name.startswith(sites) and name not in own and not name.endswith(COUNTS)]
    record = file.with_name(RESULT_FILE)
    there = read_result(record) if record.is_file() else None
    if wrong or (there is not None and not _is_of(there, architecture)):
        which = f"; {len(wrong)} tensors do not fit, such as {', '.join(wrong[:3])}" if wrong else ""
        arm = f"{there.backbone} with {there.arm}" if there else f"another network ({RESULT_FILE} is not beside it)"
        raise ValueError(
            f"backbone.checkpoint={place}: in {file} stands {arm}, here {architecture.backbone} with {architecture.label}{which}. Take a "
            "trial of classification with the same placement, branches and backbone, or, for a plain network's weights, backbone.weights"
        )
    model.load_state_dict({name: state[name] for name in needed}, strict=False)


def checkpoint_of(config: Config, architecture: Architecture) -> Path:
    """The file that `backbone.checkpoint` comes to: itself, a trial's, or that of a study's trial of this arm and seed, or of this arm.

    Raises:
        ValueError: there is none; or there are several, and not one of this seed.
    """
    place = Path(str(config.backbone.checkpoint))
    given = f"backbone.checkpoint={place}"
    if place.is_file():
        return place
    if not place.is_dir():
        raise ValueError(f"{given}: there is no such file or folder")
    if (place / RESULT_FILE).is_file() or (place / CHECKPOINT_FILE).is_file():
        if not (place / CHECKPOINT_FILE).is_file():
            raise ValueError(f"{given}: the trial kept no weights; train it again with checkpoint=always")
        return place / CHECKPOINT_FILE
    found = [
        (result, path.with_name(CHECKPOINT_FILE))
        for path in sorted(place.glob(f"*/*/{RESULT_FILE}"))
        if path.parts[-3] not in NO_TRIALS_INSIDE and path.with_name(CHECKPOINT_FILE).is_file()
        for result in [read_result(path)]
        if result.status == "ok" and result.task == CLASSIFY
    ]
    same = [(result.seed, file) for result, file in found if _is_of(result, architecture)]
    chosen = [file for seed, file in same if seed == config.seed] or [file for _, file in same]
    if len(chosen) == 1:
        return chosen[0]
    wanted = f"{architecture.backbone} with {architecture.label}"
    if not chosen:
        arms = sorted({f"{result.backbone} with {result.arm}" for result, _ in found})
        others = f"those that kept their weights are {', '.join(arms)}" if arms else "none kept its weights"
        raise ValueError(
            f"{given}: no finished trial of classification below it has {wanted}; {others}. Train that arm there with checkpoint=always"
        )
    seeds = f"of seed {config.seed}" if any(seed == config.seed for seed, _ in same) else f"none of seed {config.seed}"
    raise ValueError(
        f"{given}: {len(chosen)} trials below it have {wanted}, {seeds}: {', '.join(str(file.parent) for file in chosen[:3])}. Give the "
        "folder of one of them, or train that arm on this seed"
    )


def _is_of(result: TrialResult, architecture: Architecture) -> bool:
    arms = [_GAMMA.sub("", str(arm)) for arm in (result.arm, architecture.label)]
    same = result.backbone == architecture.backbone and set(result.sites) == set(architecture.sites)
    return same and arms[0] == arms[1]


def _head(model: nn.Module) -> list[str] | None:
    """The names of the last layer of a classifier; None of a backbone alone."""
    if not hasattr(model, "get_classifier"):
        return None
    head = cast(Any, model).get_classifier()
    return [name for name, module in model.named_modules() if module is head]


def _read(weights: str, given: str) -> dict[str, Tensor]:
    try:
        return load_state_dict(weights)  # only tensors are taken from the file, never code
    except Exception as error:  # a torn file fails in any way
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{given}: cannot be read as a state dict ({reason})") from None
