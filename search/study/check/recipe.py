"""What a study's folder says of its study: its name, its storage, what its trials vary and return."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from search.ledger.secrets import MASK
from search.space.parameters import Space, parse_space
from search.study.liveness import TOKEN_FILE
from search.study.plan import resolved

__all__ = ["FINAL", "Recipe", "named_in", "read_recipe", "storage_in"]

CONFIG = "multirun.yaml"
FINAL = ".final"  # ends the name of the study that holds the re-evaluation, or a design


@dataclass(frozen=True)
class Recipe:
    """What the study's config says of its trials.

    Attributes:
        directions: one for each objective.
        space: what may vary.
        objectives: the names of what a trial returns, as in its result.
        seeds_per_trial: runs of each trial of the search.
        seed_key: the config key that takes the seed.
        sampled: whether the trials of the search are made up by a sampler, which then skips what was taken over.
        custom: whether a function of the user's varies more than `space`.
    """

    directions: tuple[str, ...]
    space: Space
    objectives: tuple[str, ...] = ("val_top1",)
    seeds_per_trial: int = 1
    seed_key: str = "seed"
    sampled: bool = True
    custom: bool = False


def read_recipe(root: Path) -> Recipe:
    """Read `multirun.yaml`.

    Raises:
        ValueError: it is gone or damaged, or holds no study.
    """
    config = _config(root)
    try:
        sweeper, overrides = config["hydra"]["sweeper"], config["hydra"]["overrides"]["task"]
        direction = sweeper["direction"]
        sampler = str((sweeper.get("sampler") or {}).get("_target_"))
        return Recipe(
            directions=(direction,) if isinstance(direction, str) else tuple(direction),
            space=parse_space(overrides, sweeper.get("params") or {}),
            objectives=tuple(config.get("objectives") or ("val_top1",)),
            seeds_per_trial=int(sweeper.get("seeds_per_trial") or 1),
            seed_key=str(sweeper["final"]["seed_key"]),
            sampled=not sampler.endswith(("GridSampler", "BruteForceSampler")),
            custom=bool(sweeper.get("custom_search_space")),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{root / CONFIG} is no study's config ({type(error).__name__}: {error})") from None


def storage_in(root: Path) -> str | None:
    """The storage that the study's config names, its environment variables filled in; None for the folder's journal.

    Raises:
        ValueError: its password is not written down, or an environment variable is not set.
    """
    try:
        spec = _config(root)["hydra"]["sweeper"].get("storage")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if spec is not None and MASK in str(spec):
        raise ValueError(f"{root / CONFIG} does not hold the password of {spec}; give --storage URL")
    return None if spec is None else resolved(str(spec))


def named_in(root: Path) -> str:
    """The study's name: as the folder's token says, else its config, else the folder."""
    try:
        names = json.loads((root / TOKEN_FILE).read_text(encoding="utf-8"))["studies"]
        return str(names[0]).removesuffix(FINAL)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        pass
    try:
        return str(_config(root)["hydra"]["sweeper"]["study_name"])
    except (ValueError, KeyError, TypeError):
        return root.name


def _config(root: Path) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(OmegaConf.load(root / CONFIG), resolve=False)
    except (OSError, OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{root / CONFIG} cannot be read ({type(error).__name__})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{root / CONFIG} is no config")
    return config  # type: ignore[return-value]
