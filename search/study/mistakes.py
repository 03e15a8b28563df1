"""Mistakes in what a sweep varies, told before anything heavy is loaded.

Hydra hands what a sweep varies to the sweeper unread; what is wrong with it would show when the first trial is composed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from search.space.parameters import Space

__all__ = ["MAX_CHECKS", "refuse_unknown_keys", "refuse_wrong_values"]

MAX_CHECKS = 64  # configurations that are looked at before a study starts
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


def refuse_wrong_values(
    config: DictConfig, space: Space, config_loader: Any, check_values: Callable[[DictConfig], None]
) -> None:
    """Raise what `check_values` raises for a level of a parameter, where no other group than the first is chosen for it.

    Where no group is varied, the configs are those of the sweep with a few values put in, and Hydra, which takes a
    seventh of a second for each composition, is not asked; else it composes once. Whatever stands in the way is left
    to the check of all composed configs.

    Args:
        config: the composed config of the sweep.
        space: its parameters.
        config_loader: Hydra's.
        check_values: given a trial's config, raises ValueError for what is wrong on the face of it.

    Raises:
        ValueError: what `check_values` told.
    """
    try:
        for trial in _quick_configs(config, space, config_loader):
            check_values(trial)
    except (HydraException, OmegaConfBaseException):
        return


def _quick_configs(config: DictConfig, space: Space, config_loader: Any) -> Iterator[DictConfig]:
    """A trial's config for the first point, and for each other level of one parameter that is no group."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    read = OverridesParser.create().parse_overrides
    here = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(here, list)
    late = read([line for line in space.fixed if line not in here])  # of hydra.sweeper.params
    first, *others = space.variations()[:MAX_CHECKS]
    varied = read([parameter.override(first[parameter.name]) for parameter in space.parameters])
    is_group = [config_loader.repository.group_exists(override.key_or_group) for override in varied]
    names = [parameter.name for parameter, group in zip(space.parameters, is_group, strict=True) if group]
    points = [first, *(point for point in others if all(point[name] == first[name] for name in names))]
    if names or any(config_loader.repository.group_exists(override.key_or_group) for override in late):
        from search.study.launching.compose import Composer

        compose = Composer(config_loader, config).compose
        yield from (_without_hydra(compose(space.overrides(point))) for point in points)
        return
    base = _without_hydra(config.copy())
    for point in points:
        trial = base.copy()
        lines = [parameter.override(point[parameter.name]) for parameter in space.parameters]
        config_loader._apply_overrides_to_config([*late, *read(lines)], trial)
        yield trial


def _without_hydra(config: DictConfig) -> DictConfig:
    with open_dict(config):
        del config["hydra"]
    return config
