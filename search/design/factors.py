"""Factors of a design: what varies, its levels in words, and how a level is written in overrides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from search.space.parameters import Space
from xvol.allowed import meant

Factors = Mapping[str, Any]
"""What the designs take: name -> levels, see `read_factors`."""
AS_IS = "as is"  # a level without overrides
EXAMPLE = "factors: {where: [placement=none, placement=stage3], rank: [branch.options.pssa.rank=1, branch.options.pssa.rank=4]}"


@dataclass(frozen=True)
class Level:
    """One value of a factor: its name, and the overrides that set it (none: the config as it is)."""

    label: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Factor:
    """One thing that varies between the cells of a design, named as in tables; at least two levels with different labels."""

    name: str
    levels: tuple[Level, ...]

    def level(self, label: str, what: str) -> Level:
        """The level of that label; ValueError, which says that `what` asked for it, where there is none."""
        for level in self.levels:
            if level.label == label:
                return level
        labels = [level.label for level in self.levels]
        raise ValueError(
            f"{what}: factor {self.name} has no level {label!r}; its levels are {', '.join(labels)}{meant(label, labels)}"
        )


def read_factors(factors: Factors) -> tuple[Factor, ...]:
    """Read factors as a user writes them: name -> levels, a list or a mapping from a label to a level.

    A level is one override ("placement=stage3"), a list of them, or an empty list for the config as it is. In a list the label is what
    stands behind "=", or the whole override where two levels would otherwise share one. ValueError for no factors, fewer than two
    levels, two of one name or of the same overrides, or an override that Hydra cannot read or that sweeps.
    """
    if not factors:
        raise ValueError(
            f"a design needs at least one factor, e.g. hydra.sweeper.design.{EXAMPLE}; or sweep what varies on the command "
            "line: 'placement=none,stage3'"
        )
    return tuple(_factor(str(name), levels) for name, levels in factors.items())


def factors_of_space(space: Space) -> dict[str, list[str]]:
    """Each parameter of a search space as a factor of that name, its levels in order; ValueError where they cannot be counted."""
    factors: dict[str, list[str]] = {}
    for parameter in space.parameters:
        levels = parameter.levels()
        if levels is None:
            raise ValueError(
                f"a design takes values that can be counted, and {parameter.name} is an interval; give it choice(...) or range(...)"
            )
        factors[parameter.name] = [parameter.override(value) for value in levels]
    return factors


def chosen_labels(
    factors: Sequence[Factor], given: Mapping[str, Any] | None, otherwise: int, what: str
) -> dict[str, Level]:
    """One level of each factor: the one that `given` names, else number `otherwise`; `what` says in messages where they stand."""
    given = {str(name): _label_text(label) for name, label in (given or {}).items()}
    names = [factor.name for factor in factors]
    for name in given:
        if name not in names:
            raise ValueError(
                f"{what}: no factor is called {name!r}; factors are {', '.join(names)}{meant(name, names)}"
            )
    return {
        factor.name: factor.level(given[factor.name], what) if factor.name in given else factor.levels[otherwise]
        for factor in factors
    }


def _factor(name: str, given: Any) -> Factor:
    what = f"design factor {name}"
    if not isinstance(given, Mapping) and (isinstance(given, str) or not isinstance(given, Iterable)):
        raise ValueError(
            f"{what} takes a list of levels or a mapping from labels to levels, got {given!r}; e.g. {EXAMPLE}"
        )
    if isinstance(given, Mapping):
        levels = tuple(Level(_label_text(label), _overrides(level, what)) for label, level in given.items())
    else:
        written = [_overrides(level, what) for level in given]
        short = [_label(overrides) for overrides in written]
        shared = {label for label, count in Counter(short).items() if count > 1}
        levels = tuple(
            Level(", ".join(overrides) or AS_IS if label in shared else label, overrides)
            for label, overrides in zip(short, written, strict=True)
        )
    if len(levels) < 2:
        raise ValueError(f"{what} has {len(levels)} level(s), and needs at least 2 to vary; e.g. {EXAMPLE}")
    for field in ("label", "overrides"):
        twice = [value for value, count in Counter(getattr(level, field) for level in levels).items() if count > 1]
        if twice:
            raise ValueError(f"{what} has the level {twice[0]} twice; leave one of them out, or change it")
    return Factor(name, levels)


def _overrides(level: Any, what: str) -> tuple[str, ...]:
    lines = [level] if isinstance(level, str) else level
    if lines is None or isinstance(lines, Mapping) or not isinstance(lines, Iterable):
        raise ValueError(
            f"{what}: a level is an override such as 'placement=stage3', or a list of them, got {level!r}; quote it where "
            "YAML reads something else"
        )
    return tuple(_checked(line, what) for line in lines)


def _checked(line: Any, what: str) -> str:
    if not isinstance(line, str) or not ("=" in line or line.startswith("~")):
        raise ValueError(f"{what}: {line!r} is no override; write KEY=VALUE, e.g. placement=stage3")
    try:
        override = OverridesParser.create().parse_override(line)
    except HydraException as error:
        raise ValueError(f"{what}: Hydra cannot read {line!r}: {str(error).splitlines()[0]}") from None
    if override.is_sweep_override():
        raise ValueError(f"{what}: {line!r} sweeps; write each of its values as a level of its own")
    return line


def _label(overrides: tuple[str, ...]) -> str:
    return " ".join(line.partition("=")[2] or line for line in overrides) or AS_IS


def _label_text(label: Any) -> str:
    """A label as YAML gave it: `true`, `null` and numbers are the words that were written."""
    if label is None:
        return "null"
    return str(label).lower() if isinstance(label, bool) else str(label)
