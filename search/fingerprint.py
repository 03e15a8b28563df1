"""When two trials are of one recipe, and when the second could only repeat the first."""

from __future__ import annotations

from typing import Any

from search.config import Config
from search.ledger.files import digest
from search.ledger.metric import CLASSIFY, DETECTORS
from search.ledger.result import Phase
from search.starting import StartConfig

# what changes no number that arms are compared by: where data lie, when state is saved, what is recorded beside
_NO_RECIPE = {
    "data": ("root", "download", "workers", "probe_size"),
    "train": ("state_every_seconds", "eval_every"),
    "measure": ("zero_cost", "coco_backend"),
}
# the keys of the first version: one that came later counts where it is not its default, so that hashes and studies of before stay
_FIRST = {
    "backbone": ("name", "pretrained", "kwargs"),
    "data": (
        *(
            "name",
            "root",
            "path",
            "download",
            "image_size",
            "channels",
            "train_size",
            "val_size",
            "test_size",
            "split_seed",
        ),
        *("flip", "crop_padding", "batch_size", "eval_batch_size"),
    ),
    "train": (
        *("epochs", "opt", "lr", "momentum", "weight_decay", "schedule", "warmup", "label_smoothing"),
        *("ema_decay", "ema_warmup", "clip_grad", "amp", "state_every_seconds"),
    ),
    "measure": ("latency_batch", "latency_repeats", "fuse_tolerance", "zero_cost"),
}


def is_late_default(key: str, value: Any) -> bool:
    """Whether a key, e.g. "train.accumulate", came after the first version, and has its default: as if it were not there."""
    part, _, name = key.partition(".")
    if part not in _FIRST or name.partition(".")[0] in _FIRST[part]:
        return False
    default = getattr(getattr(Config(), part), name, None)
    return bool(default == value)


def recipe_hash(plain: dict[str, Any], anywhere: bool = False) -> str:
    """Ten hexadecimal digits over what must be equal in the resolved config of two trials for them to be compared.

    `anywhere`: of whatever folders, for who compares the images, and the file of weights, themselves.
    """
    parts = {
        part: {
            name: value
            for name, value in plain[part].items()
            if name not in _NO_RECIPE.get(part, ()) and not is_late_default(f"{part}.{name}", value)
        }
        for part in _FIRST
    }
    if anywhere:
        parts["data"]["path"] = None
        for name in ("weights", "checkpoint"):
            parts["backbone"].pop(name, None)
    start = {name: value for name, value in (plain.get("start") or {}).items() if name != "root"}
    if changed := {name: value for name, value in start.items() if value != getattr(StartConfig(), name)}:
        parts["start"] = changed
    if plain.get("task", CLASSIFY) != CLASSIFY:  # so it is the hash that it was before there were others
        parts["task"] = {"name": plain["task"]}
        if plain["task"] in DETECTORS:
            parts["task"] |= plain["detector"]
    return digest(list(parts.values()))


def fingerprint_of(arch_hash: str, recipe: str, seed: int, epochs: int, phase: Phase, content: str) -> str:
    """Twice ten hexadecimal digits: equal for two trials of which the second could only repeat the first.

    The first ten are of what was asked for. The final re-evaluation reads test data, and so it is never the same trial
    as one of the search. The last ten are `content`, the digest of code, images and versions: what a change of theirs
    does to a result would be lost in silence.
    """
    return f"{digest([arch_hash, recipe, seed, epochs, {'test': phase == 'final'}])}-{content}"
