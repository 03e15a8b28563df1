"""What a block is made of, as a frozen value: which branches, their options, how loud they start."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xvol.allowed import suggest
from xvol.branches import branch_class, branch_options

CONV = "conv"  # the branch that holds the host convolution

Options = tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]


@dataclass(frozen=True)
class BlockSpec:
    """Which branches a block sums. Equal specs build equal blocks: order and spelt-out defaults make no difference.

    Attributes:
        branches: registered names, each once; kept with "conv" first, the others sorted.
        options: what differs from the branches' defaults. May be given as a mapping of branch to a mapping of option to
            value; kept as sorted tuples, so that a spec can be hashed.
        gamma: initial weight of the BN after each branch but "conv". None stands for 0 where a "conv" branch is
            present, so that converting a trained model preserves its function, and for 1 where there is none.

    Raises:
        ValueError: an unknown branch, one named twice, an unknown option, or a value its branch does not allow.

    Example:
        >>> BlockSpec.make(["conv", "pssa"], {"pssa": {"rank": 2}}).canonical()["options"]["pssa"]["rank"]
        2
    """

    branches: tuple[str, ...] = (CONV, "pssa")
    options: Options = ()
    gamma: float | None = None

    @classmethod
    def make(
        cls,
        branches: Sequence[str] = (CONV, "pssa"),
        options: Mapping[str, Mapping[str, Any]] | None = None,
        gamma: float | None = None,
    ) -> BlockSpec:
        """Build a spec from what a config holds: lists and mappings."""
        given = tuple((branch, tuple(values.items())) for branch, values in (options or {}).items())
        return cls(tuple([branches] if isinstance(branches, str) else branches), given, gamma)

    def __post_init__(self) -> None:
        """Bring the fields into normal form, refusing what cannot be built."""
        given = self.options.items() if isinstance(self.options, Mapping) else self.options
        branches = _ordered(self.branches)
        options = {branch: dict(values) for branch, values in given}
        for branch in options:
            if branch not in branches:
                raise ValueError(
                    f"options are given for branch {branch!r}, which the block lacks: {suggest(branch, branches)}"
                )
        normal = [(branch, _changed(branch, options.get(branch, {}))) for branch in branches]
        object.__setattr__(self, "branches", branches)
        object.__setattr__(self, "options", tuple(entry for entry in normal if entry[1]))
        object.__setattr__(self, "gamma", _gamma(self.gamma, branches))

    @property
    def initial_gamma(self) -> float:
        """The weight that the BN after each branch but "conv" starts with."""
        return _default_gamma(self.branches) if self.gamma is None else self.gamma

    def branch_options(self, branch: str) -> dict[str, Any]:
        """All options of one of the block's branches, defaults included."""
        return branch_options(branch) | dict(dict(self.options).get(branch, ()))

    def canonical(self) -> dict[str, Any]:
        """The spec with its defaults spelt out, in JSON's types: equal if and only if the specs are equal.

        A branch's `later_options` are left out at their defaults, so that a spec stored before they came still is itself.
        """
        return {
            "branches": list(self.branches),
            "options": {branch: self._spelt_out(branch) for branch in self.branches},
            "gamma": self.initial_gamma,
        }

    def _spelt_out(self, branch: str) -> dict[str, Any]:
        defaults, later = branch_options(branch), branch_class(branch).later_options
        values = self.branch_options(branch)
        return {option: value for option, value in values.items() if option not in later or value != defaults[option]}

    def __str__(self) -> str:
        changed = {branch: ", ".join(f"{key}={value}" for key, value in values) for branch, values in self.options}
        label = "+".join(f"{branch}({changed[branch]})" if branch in changed else branch for branch in self.branches)
        return label if self.gamma is None else f"{label} gamma={self.gamma:g}"


def _ordered(branches: Sequence[str]) -> tuple[str, ...]:
    if not branches:
        raise ValueError("a block needs at least one branch, such as branches=('conv', 'pssa')")
    for name in branches:
        branch_class(name)
        if list(branches).count(name) > 1:
            raise ValueError(f"branch {name!r} is named twice in {tuple(branches)}: name each branch once")
    return tuple(sorted(branches, key=lambda name: (name != CONV, name)))


def _changed(branch: str, given: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Check the options of one branch; return, sorted, those that differ from its defaults."""
    defaults = branch_options(branch)
    values = {}
    for option, value in given.items():
        if option not in defaults:
            raise ValueError(f"branch {branch!r} has no option {option!r}: {suggest(option, defaults)}")
        default = defaults[option]
        whole = isinstance(value, int) and not isinstance(value, bool)
        values[option] = float(value) if isinstance(default, float) and whole else value
    branch_class(branch).check_options(**(defaults | values))
    return tuple(sorted((option, value) for option, value in values.items() if value != defaults[option]))


def _default_gamma(branches: Sequence[str]) -> float:
    return 0.0 if CONV in branches else 1.0


def _gamma(given: float | None, branches: Sequence[str]) -> float | None:
    """Check gamma; None where it is the default or no branch would use it."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not math.isfinite(given):
        raise ValueError(f"gamma={given!r} must be a finite number, such as 0 or 1, or None for the default")
    unused = tuple(branches) == (CONV,)
    return None if unused or given == _default_gamma(branches) else float(given)
