"""A trial's config from its overrides, as Hydra composes it, in a few milliseconds where only leaves differ.

Hydra reads the defaults list and every file again for each trial. What that gives depends on the choices of groups
alone, so it is kept for each combination of them; the other overrides are put on a copy.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

KEPT_BASES = 64
# of Hydra's own config what is the sweep's, and what a trial may say anew, but seldom does
OF_THE_SWEEP = ("sweeper", "launcher", "help", "hydra_help", "hydra_logging", "run", "runtime.config_sources")
MOSTLY_OF_THE_SWEEP = (
    *("env", "searchpath", "callbacks", "overrides.hydra"),
    *("job.config", "job_logging", "runtime.choices"),
)


class Composer:
    """Composes the configs of a study's trials; `compose` gives what `config_loader.load_sweep_config(master, ...)` gives.

    Files of config groups are read once for each combination of choices: an edit in the middle of a study does not
    reach the trials of a worker that has read them. Whatever the quick way cannot do, errors above all, is left to
    Hydra itself.

    Args:
        loader: Hydra's.
        master: the config of the sweep; it must not change while the composer is in use.
        for_jobs: the configs are run as Hydra jobs, where Hydra copies each of them five times. What its own part says of
            the sweep is then the master's, reached by an interpolation, which halves that.
        groups: what another composer of the sweep has found out in its own `groups`.

    Attributes:
        groups: names of the config groups in each group, "" for the outermost; Hydra takes as long as for a composition.
    """

    def __init__(
        self,
        loader: ConfigLoader,
        master: DictConfig,
        for_jobs: bool = False,
        groups: Mapping[str, list[str]] | None = None,
    ) -> None:
        self.loader, self._master, self._for_jobs = loader, master, for_jobs
        self._bases: OrderedDict[tuple[str, ...], tuple[DictConfig, DictConfig]] = OrderedDict()
        self.groups = dict(groups or {})
        if for_jobs:
            OmegaConf.register_new_resolver("xvol_sweep", functools.partial(_part_of, master), replace=True)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of the trial with these overrides, a new one at each call.

        Raises:
            hydra.errors.HydraException: whatever `load_sweep_config` raises for these overrides.
        """
        lines = list(overrides)
        try:
            config = self._quick(lines)
        except Exception:  # Hydra meets it again below, and tells it in its own words
            config = None
        if config is None:
            config = self.loader.load_sweep_config(self._master, lines)
        return config

    def put_on(self, config: DictConfig, overrides: Sequence[str]) -> DictConfig | None:
        """A copy of `config` with these overrides; None where one does more than write over what is there."""
        leaves = [_parsed(line) for line in overrides]
        return (
            _written_over(copy.deepcopy(config), leaves)
            if all(self._is_leaf(each.override) for each in leaves)
            else None
        )

    def is_group(self, key: str) -> bool:
        """Whether `key` names a config group, in the folders of the sweep."""
        parent, _, name = key.rpartition("/")
        if parent not in self.groups:
            job, lines = self._master.hydra.job, OmegaConf.to_container(self._master.hydra.overrides.hydra)
            assert isinstance(lines, list)
            self.groups[parent] = self.loader.get_group_options(parent, ObjectType.GROUP, job.config_name, lines)
        return name in self.groups[parent]

    def _quick(self, lines: list[str]) -> DictConfig | None:
        """None where overrides depend on each other's order."""
        parsed = [_parsed(line) for line in lines]
        leaves = [each for each in parsed if self._is_leaf(each.override)]
        others = [each for each in parsed if each not in leaves]
        changed = [_parent(each.key) for each in others if not self._is_choice(each.override)]
        if any(_overlap(leaf.key, key) for leaf in leaves for key in changed):
            return None
        config, how = self._base(tuple(each.text for each in others))
        _written_over(config, leaves)
        _note_overrides(config, [each for each in parsed if not each.override.is_hydra_override()], how)
        OmegaConf.copy_cache(from_config=self._master, to_config=config)  # `${now:}` stays what it was
        return config

    def _is_leaf(self, override: Override) -> bool:
        """Whether the override writes over what is composed, and changes nothing in what is composed."""
        plain = override.type == OverrideType.CHANGE and override.package is None and not override.is_sweep_override()
        return plain and not override.is_hydra_override() and not self.is_group(override.key_or_group)

    def _is_choice(self, override: Override) -> bool:
        """Whether Hydra heeds the override before any leaf, wherever it stands."""
        chooses = self.is_group(override.key_or_group) and not isinstance(override.value(), dict)
        return chooses or bool(override.is_hydra_override())

    def _base(self, others: tuple[str, ...]) -> tuple[DictConfig, DictConfig]:
        """A copy of the config with these overrides alone, and how it names a folder."""
        if others not in self._bases:
            base = self.loader.load_sweep_config(self._master, list(others))
            how = base.hydra.job.config.override_dirname
            if self._for_jobs:
                same = [name for name in MOSTLY_OF_THE_SWEEP if _raw(base, name) == _raw(self._master, name)]
                with read_write(base), open_dict(base):
                    for name in (*OF_THE_SWEEP, *same):
                        OmegaConf.update(base.hydra, name, f"${{xvol_sweep:{name}}}")
            self._bases[others] = base, how
            if len(self._bases) > KEPT_BASES:
                self._bases.popitem(last=False)
        self._bases.move_to_end(others)
        base, how = self._bases[others]
        return copy.deepcopy(base), how


def _part_of(master: DictConfig, name: str, *, _root_: DictConfig) -> Any:
    """A part of Hydra's own config; of one that a trial may say anew, the interpolations are those of the trial."""
    if name in OF_THE_SWEEP:
        return OmegaConf.select(master.hydra, name)
    return OmegaConf.create(_raw(master, name), parent=_root_.hydra)


def _raw(config: DictConfig, name: str) -> Any:
    part = OmegaConf.select(config.hydra, name)
    return OmegaConf.to_container(part, resolve=False) if OmegaConf.is_config(part) else part


class _Line(NamedTuple):
    override: Override  # of a plain number that of another number
    key: str
    value: Any
    text: str


# as Python writes it, where nearly each is another
_NUMBER = re.compile(r"([A-Za-z_][\w.]*)=(-?\d+\.\d+(?:e[+-]?\d+)?)")


def _parsed(line: str) -> _Line:
    """One line of Hydra's grammar, for which ANTLR takes half a millisecond."""
    number = _NUMBER.fullmatch(line)
    override = _override(line if number is None else f"{number[1]}=0.0")
    return _Line(override, override.key_or_group, override.value() if number is None else float(number[2]), line)


@functools.lru_cache(maxsize=1024)
def _override(line: str) -> Override:
    """Not to be changed."""
    return OverridesParser.create().parse_override(line)


def _written_over(config: DictConfig, leaves: Sequence[_Line]) -> DictConfig:
    for leaf in leaves:
        OmegaConf.update(config, leaf.key, leaf.value, merge=True)
    return config


def _parent(key: str) -> str:
    return key.rpartition(".")[0] or key


def _overlap(key: str, other: str) -> bool:
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def without_hydra(config: DictConfig) -> DictConfig:
    """`config`, which must be the caller's own, without Hydra's part: what a task is given."""
    with read_write(config), open_dict(config):
        del config["hydra"]
    return config


def as_text(config: DictConfig) -> str:
    """The same text for configs that hold the same, whatever their interpolations come to."""
    return json.dumps(OmegaConf.to_container(config, resolve=False), sort_keys=True, default=str)


def _note_overrides(config: DictConfig, lines: list[_Line], how: DictConfig) -> None:
    """What Hydra writes into `hydra` of the overrides, and of the environment and folder of this moment."""
    job = config.hydra.job
    config.hydra.overrides.task = [each.text for each in lines]
    if job.env_copy:
        with open_dict(job):
            for name in job.env_copy:
                job.env_set[name] = os.environ[name]
    config.hydra.runtime.cwd = os.getcwd()
    named = sorted(each.text for each in lines if each.key not in how.exclude_keys)
    job.override_dirname = how.item_sep.join(named).replace("=", how.kv_sep)
