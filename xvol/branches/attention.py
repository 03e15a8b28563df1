"""What the attention branches share: 1x1 embeddings in the host's groups, and a last linear map that takes the norm in.

B = batch, C = channels (I = in, E = embedding, O = out), g = groups.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, Self

from torch import Tensor, nn

from xvol.branches.base import Branch, Folded, Geometry
from xvol.fold import Kernel, bias_only, fold_norm, sum_parallel

__all__ = ["AttentionBranch", "embedding_chs", "heads_in_group"]


def embedding_chs(embed_ratio: float, geometry: Geometry) -> int:
    """E: a ratio of the out channels, rounded to whole channels in each group, at least one."""
    return max(1, round(embed_ratio * geometry.out_chs / geometry.groups)) * geometry.groups


def heads_in_group(branch: str, heads: int | None, embed_ratio: float, geometry: Geometry) -> int:
    """The number of heads in each group; None stands for one head for each channel.

    Raises:
        ValueError: the heads of a group do not divide its embedding channels.
    """
    chs = embedding_chs(embed_ratio, geometry) // geometry.groups
    if heads is None:
        return chs
    if chs % heads:
        raise ValueError(
            f"{branch}: heads={heads} does not divide the {chs} embedding channels (of each group): "
            "choose a divisor, or another embed_ratio"
        )
    return heads


class AttentionBranch(Branch):
    """A branch P z(x) with a 1x1 projection P: (B, E, H', W') -> (B, O, H', W'), and 1x1 embeddings of x.

    Subclasses set `project` and give `embeddings`. Every map keeps the variance of its input as it starts; a query bias
    starts at zero.
    """

    project: nn.Conv2d

    def _embed(self, embed_chs: int, *, stride: int = 1, bias: bool = False, **factory: Any) -> nn.Conv2d:
        geo = self.geometry
        return nn.Conv2d(geo.in_chs, embed_chs, 1, stride=stride, groups=geo.groups, bias=bias, **factory)

    def _projection(self, chs: int, **factory: Any) -> nn.Conv2d:
        geo = self.geometry
        return nn.Conv2d(chs, geo.out_chs, 1, groups=geo.groups, bias=False, **factory)

    @abstractmethod
    def embeddings(self) -> tuple[nn.Conv2d, ...]:
        """The 1x1 convolutions of x, the query first."""

    def reset_parameters(self) -> None:
        """Draw all weights normal, each map preserving the variance of its input; the query bias starts at zero."""
        for conv in (*self.embeddings(), self.project):
            nn.init.normal_(conv.weight, std=conv.weight.shape[1] ** -0.5)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def fold(self, norm: nn.BatchNorm2d, static: Geometry | None) -> Folded:
        """The norm's scale goes into P, its shift into the static convolution; where there is none, into a bias of P.

        What else is static (`_take_static_part`) leaves the dynamic part if it fits the taps of the static convolution.
        """
        twin = copy.deepcopy(self)
        bias_O = None if self.project.bias is None else self.project.bias.detach()
        weight, shift_O = fold_norm(self.project.weight.detach(), bias_O, norm)
        twin.project.weight = nn.Parameter(weight)
        twin.project.bias = nn.Parameter(shift_O) if static is None else None
        if static is None:
            return Folded(static=None, dynamic=twin)
        fixed = bias_only(shift_O, self.geometry.in_chs // self.geometry.groups)
        part = twin._take_static_part(static)
        return Folded(static=fixed if part is None else sum_parallel(fixed, part), dynamic=twin)

    def _take_static_part(self: Self, static: Geometry) -> Kernel | None:
        """Take out of this twin what is a convolution that fits `static`, and return it; None where nothing is."""
        return None

    def _projection_bias(self) -> Tensor:
        bias_O = self.project.bias
        return self.project.weight.new_zeros(self.geometry.out_chs) if bias_O is None else bias_O
