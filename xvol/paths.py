"""A block of several alternatives, of which each forward pass takes one: a network of such blocks is a supernet, its paths networks.

Alternatives share the weights of the branches that they have in common (one-shot search; Guo et al. 2020, arXiv:1904.00420). In training
they take turns by the strictly fair sampling of FairNAS (Chu et al. 2019, arXiv:1907.01845): in each `period` forward passes each is
taken equally often, so that an update of as many parts trains all of them on equally many images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from xvol.block import CONV, BlockSpec, XVolution2d
from xvol.branches.base import Branch
from xvol.deploy_form import add_to
from xvol.fold import Norm

HOST = BlockSpec((CONV,))  # the convolution alone that stands there: "none"


@dataclass(frozen=True)
class Paths(BlockSpec):
    """The union of the branches of several blocks, and which of them each block has. Made by `Paths.of`.

    Attributes:
        alternatives: branches of each; the first is the one that counts where nothing else is said.
        group: blocks of one group take the same alternative in each forward pass, those of others another order.
        period: forward passes in which each alternative is taken equally often; a multiple of their number.
        seed: of the order in which they take turns.
    """

    alternatives: tuple[tuple[str, ...], ...] = ()
    group: str = ""
    period: int = 0
    seed: int = 0

    @classmethod
    def of(
        cls,
        blocks: Sequence[BlockSpec],
        group: str,
        *,
        gamma: float | None = None,
        period: int | None = None,
        seed: int = 0,
    ) -> Paths:
        """Unite blocks; `gamma` is of the union, whose branches have one norm each, whichever alternative takes them.

        Raises:
            ValueError: fewer than two, one of them twice, one branch with two kinds of options, or a `period` that is no multiple.
        """
        bare = [replace(block, gamma=None) for block in blocks]
        options: dict[str, Any] = {}
        for block in bare:
            for name in block.branches:
                given = dict(block.options).get(name, ())
                if options.setdefault(name, given) != given:
                    raise ValueError(
                        f"group {group!r}: branch {name!r} has the options {dict(options[name])} in one alternative and "
                        f"{dict(given)} in another, and a block has each branch once; give it one kind"
                    )
        if len(set(bare)) < max(len(bare), 2):
            raise ValueError(
                f"group {group!r}: give two or more alternatives that differ, got {', '.join(map(named, bare))}"
            )
        period = len(bare) if period is None else period
        if period < 1 or period % len(bare):
            raise ValueError(f"group {group!r}: period={period} must be a multiple of its {len(bare)} alternatives")
        branches = tuple(dict.fromkeys(name for block in bare for name in block.branches))
        frozen = tuple((name, given) for name, given in options.items() if given)
        alternatives = tuple(block.branches for block in bare)
        return cls(branches, frozen, gamma, bare[0].keeps_norm, alternatives, group, period, seed)

    @property
    def blocks(self) -> list[BlockSpec]:
        """Each alternative as a block of its own."""
        kinds = dict(self.options)
        return [
            BlockSpec(names, tuple((name, kinds[name]) for name in names if name in kinds), keeps_norm=self.keeps_norm)
            for names in self.alternatives
        ]

    def canonical(self) -> dict[str, Any]:
        """As of any block, with the alternatives, and how they take turns, but for the seed."""
        own = {"alternatives": [list(names) for names in self.alternatives], "group": self.group, "period": self.period}
        return super().canonical() | own

    def __str__(self) -> str:
        label = "|".join(map(named, self.blocks))
        return label if self.gamma is None else f"{label} gamma={self.gamma:g}"


def named(block: BlockSpec) -> str:
    """A block as a placement names it: "none" for the convolution alone that stands there."""
    return "none" if replace(block, keeps_norm=False) == HOST else str(block)


def alternative_at(count: int, choices: int, period: int, seed: int, group: str) -> int:
    """Which of so many alternatives forward pass number `count` (from 0) takes: a new permutation for each `period` of them."""
    turn, place = divmod(count, period)
    return _order(period, seed, group, turn)[place] % choices


@lru_cache(maxsize=64)  # all blocks of a group ask for the same
def _order(period: int, seed: int, group: str, turn: int) -> list[int]:
    return sorted(range(period), key=lambda slot: hashlib.sha256(f"{seed}/{group}/{turn}/{slot}".encode()).digest())


def new_block(spec: BlockSpec, *sizes: int, **arguments: Any) -> XVolution2d:
    """The block that a spec is of, on arguments of `XVolution2d`."""
    if isinstance(spec, Paths):
        return PathBlock(*sizes, spec=spec, **arguments)
    return XVolution2d(*sizes, spec=spec, **arguments)


class PathBlock(XVolution2d):
    """sum_b norm_b(branch_b(x)) over the branches b of one alternative: in training that of the turn, else that of `path`.

    All that looks at a block (`fuse`, doses, multiply-accumulates, time) sees the path. Forward passes in training are counted in
    the buffer `forwards`, so that a state dict holds whose turn it is.

    Attributes:
        path: which alternative stands for the block in eval mode, and is fused; 0 as it is built.
    """

    spec: Paths
    forwards: Tensor

    def __init__(self, in_chs: int, out_chs: int, *, spec: Paths, **arguments: Any) -> None:
        super().__init__(in_chs, out_chs, spec=spec, **arguments)
        self.path = 0
        self.register_buffer("forwards", torch.zeros((), dtype=torch.int64, device=arguments.get("device")))

    def parts(self) -> Iterable[tuple[str, Branch, Norm]]:
        """Each branch of the path with its name and its norm, in the order in which they are summed."""
        for name in self.spec.alternatives[self.path]:
            yield name, cast(Branch, self.branches[name]), cast(Norm, self.norms[name])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Sum the normed branches of one alternative."""
        spec, at = self.spec, self.path
        if self.training:
            at = alternative_at(int(self.forwards), len(spec.alternatives), spec.period, spec.seed, spec.group)
            self.forwards += 1
        terms = [self.norms[name](self.branches[name](x_BCHW)) for name in spec.alternatives[at]]
        return add_to(terms[0], terms[1:])
