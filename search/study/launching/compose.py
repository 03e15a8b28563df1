"""A trial's config from its overrides, as Hydra composes it, in under a millisecond where only leaves differ.

Hydra reads the defaults list and every file again for each trial. What that gives depends on the choices of groups
alone, so it is kept for each combination of them; the other overrides are put on a copy by Hydra's own function.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, Node, OmegaConf, StringNode, open_dict

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

__all__ = ["Composer", "as_text", "clone"]

KEPT_BASES = 64
KEPT_PARSES = 4096
IMMUTABLE = (str, int, float, bool, bytes, Enum, Path, type(None))
# `key=number` as Hydra's grammar reads it, without its rarer spellings (1_000, .5, 1., inf), which go to its parser
PLAIN_NUMBER = re.compile(
    r"(?P<key>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)="
    r"(?:(?P<int>-?(?:0|[1-9][0-9]*))|(?P<float>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:e[+-]?[0-9]+)?|e[+-]?[0-9]+)))",
    re.ASCII,
)


class Composer:
    """Composes the configs of a study's trials; `compose` equals `config_loader.load_sweep_config(master, ...)`.

    Files of config groups are read once for each combination of choices: an edit in the middle of a study does not
    reach the trials of a worker that has read them. Whatever the quick way cannot do, errors above all, is left to
    Hydra itself.

    Args:
        config_loader: Hydra's.
        master: the config of the sweep; it must not change while the composer is in use.
    """

    def __init__(self, config_loader: Any, master: DictConfig) -> None:
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from hydra.core.override_parser.overrides_parser import OverridesParser

        self._loader, self._master = config_loader, master
        self._quick = isinstance(config_loader, ConfigLoaderImpl)
        self._parser = OverridesParser.create()
        self._parsed: OrderedDict[str, Override] = OrderedDict()
        self._bases: OrderedDict[tuple[str, ...], DictConfig] = OrderedDict()
        self._is_group: dict[str, bool] = {}
        if self._quick and OmegaConf.select(master, "hydra.searchpath"):
            self._read_search_path()

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of the trial with these overrides, a new one at each call.

        Raises:
            hydra.errors.HydraException: whatever `load_sweep_config` raises for these overrides.
        """
        if self._quick:
            try:
                return self._compose(list(overrides))
            except Exception:  # Hydra meets it again below, and tells it in its own words
                pass
        config = self._loader.load_sweep_config(self._master, list(overrides))
        assert isinstance(config, DictConfig)
        return config

    def _compose(self, lines: list[str]) -> DictConfig:
        parsed = [self._parse(line) for line in lines]
        leaves = [override for override in parsed if not self._chooses(override)]
        config = self._base(
            tuple(line for line, override in zip(lines, parsed, strict=True) if self._chooses(override))
        )
        self._loader._apply_overrides_to_config(leaves, config)
        self._note_overrides(config, [override for override in parsed if not override.is_hydra_override()])
        OmegaConf.copy_cache(from_config=self._master, to_config=config)  # `${now:}` stays what it was
        return config

    def _parse(self, line: str) -> Override:
        found = self._parsed.get(line)
        if found is None:
            found = _plain_number(line) or self._parser.parse_override(line)
            self._parsed[line] = found
            if len(self._parsed) > KEPT_PARSES:
                self._parsed.popitem(last=False)
        return found

    def _chooses(self, override: Override) -> bool:
        """Whether the override changes what is composed, not only what is written over it afterwards."""
        if override.is_sweep_override() or override.key_or_group == "hydra.searchpath":
            raise ValueError(f"{override.input_line}: left to Hydra")
        key = override.key_or_group
        if key not in self._is_group:
            self._is_group[key] = bool(self._loader.repository.group_exists(key))
        is_choice = self._is_group[key] and not isinstance(override.value(), dict)
        return is_choice or bool(override.is_hydra_override())

    def _base(self, choices: tuple[str, ...]) -> DictConfig:
        """A copy of the config with these choices alone; nobody but this function holds the original."""
        base = self._bases.get(choices)
        if base is None:
            base = self._bases[choices] = self._loader.load_sweep_config(self._master, list(choices))
            if len(self._bases) > KEPT_BASES:
                self._bases.popitem(last=False)
        else:
            self._bases.move_to_end(choices)
        config = clone(base)
        assert isinstance(config, DictConfig)
        return config

    def _note_overrides(self, config: DictConfig, overrides: list[Override]) -> None:
        """What Hydra writes into `hydra` after the overrides; the environment and folder are those of this moment."""
        from hydra._internal.config_loader_impl import get_overrides_dirname

        hydra = config.hydra
        job = hydra.job
        task = hydra.overrides.task
        task.__dict__["_content"] = [
            StringNode(override.input_line, key=place, parent=task, is_optional=False)
            for place, override in enumerate(overrides)
        ]  # what `task.append` builds, which takes most of the time of a whole composition
        if job.env_copy:
            with open_dict(hydra):
                for key in job.env_copy:
                    job.env_set[key] = os.environ[key]
        hydra.runtime.cwd = os.getcwd()
        how = job.config.override_dirname
        job.override_dirname = get_overrides_dirname(
            overrides=overrides, kv_sep=how.kv_sep, item_sep=how.item_sep, exclude_keys=how.exclude_keys
        )

    def _read_search_path(self) -> None:
        """Let the loader learn the config's own `hydra.searchpath`, which decides what is a group."""
        from hydra.types import RunMode

        lines = OmegaConf.to_container(self._master.hydra.overrides.hydra)
        assert isinstance(lines, list)
        self._loader.compute_defaults_list(self._master.hydra.job.config_name, lines, RunMode.RUN)


def as_text(config: DictConfig) -> str:
    """The same text for configs that hold the same, whatever their interpolations come to."""
    return json.dumps(OmegaConf.to_container(config, resolve=False), sort_keys=True, default=str)


def _plain_number(line: str) -> Override | None:
    """What Hydra's parser makes of `key=number`, a hundred times as fast; None for anything else."""
    from hydra.core.override_parser.types import Override, OverrideType, ValueType

    match = PLAIN_NUMBER.fullmatch(line)
    if match is None:
        return None
    value: int | float = int(match["int"]) if match["int"] is not None else float(match["float"])
    return Override(
        type=OverrideType.CHANGE,
        key_or_group=match["key"],
        value_type=ValueType.ELEMENT,
        _value=value,
        input_line=line,
    )


def clone(node: Any, parent: Any = None) -> Any:
    """A deepcopy of an OmegaConf node in a fifteenth of the time: values that cannot change are shared."""
    kind, fields = type(node), node.__dict__
    new = object.__new__(kind)
    copied = new.__dict__
    copied.update(fields)
    copied["_parent"] = parent
    copied["_flags_cache"] = None
    old_metadata = fields["_metadata"]
    metadata = copied["_metadata"] = object.__new__(type(old_metadata))
    metadata.__dict__.update(old_metadata.__dict__)
    metadata.flags = None if old_metadata.flags is None else dict(old_metadata.flags)
    metadata.resolver_cache = copy.deepcopy(old_metadata.resolver_cache) if parent is None else defaultdict(dict)
    if "_val" in fields:
        value = fields["_val"]
        if not isinstance(value, IMMUTABLE):
            copied["_val"] = copy.deepcopy(value)
        return new
    content = fields["_content"]
    if type(content) is dict:
        copied["_content"] = {name: clone(item, new) for name, item in content.items()}
    elif type(content) is list:
        copied["_content"] = [clone(item, new) for item in content]
    elif isinstance(content, Node):  # of a union
        copied["_content"] = clone(content, new)
    return new
