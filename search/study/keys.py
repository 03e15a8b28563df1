"""Misspelt keys of a sweep, told before anything heavy is loaded.

Hydra hands what a sweep varies to the sweeper unread; what is wrong with it would show when the first trial is composed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

__all__ = ["refuse_unknown_keys"]

_KEY = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)=")  # no group, nothing added, deleted or renamed


def refuse_unknown_keys(config: DictConfig, arguments: Sequence[str]) -> None:
    """Raise what Hydra would raise for a key that its dataclass does not have, whatever groups are chosen.

    Args:
        config: the composed config of the sweep.
        arguments: the overrides of the sweep, e.g. "placement.policy=choice(none,stage3)".

    Raises:
        hydra.errors.ConfigCompositionException: there is no such key.
    """
    for argument in arguments:
        match = _KEY.match(argument)
        if match is None:
            continue
        path = match[1].split(".")
        for depth, name in enumerate(path):
            node = OmegaConf.select(config, ".".join(path[:depth])) if depth else config
            kind = OmegaConf.get_type(node) if isinstance(node, DictConfig) else None
            if kind is None or not dataclasses.is_dataclass(kind):
                break
            if name not in (field.name for field in dataclasses.fields(kind)) and name != "hydra":
                raise ConfigCompositionException(
                    f"Could not override '{match[1]}'.\nKey '{name}' not in '{kind.__name__}'"
                )
