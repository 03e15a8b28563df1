"""Pixel Shift Self-Attention as the paper's text has it: shifted copies and a dense matrix for each direction.

B = batch, C = channels (I = in, E = embedding, O = out), D = directions, H, W = height, width, g = groups.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from xvol.branches.attention import ShiftedBranch
from xvol.branches.base import Geometry, Host, factory_of
from xvol.branches.window import shifted, tap_window
from xvol.fold import Kernel

__all__ = ["PSSADense"]


class PSSADense(ShiftedBranch):
    """sum_d P_d (q * S_d k), q = Q x + b_q, k = K x, S_d k(y) = k(y + shift * d): (B, I, H, W) -> (B, O, H', W').

    The paper's text: embed, shift the map in some directions, multiply each copy with the unshifted map, take a weighted
    sum, by one 1x1 convolution over all copies. Each P_d is a dense matrix (within the host's groups), which `pssa`
    reaches at rank D; per output pixel it costs 2 I E + D E + D E O multiply-accumulates, and D maps of memory.
    The embeddings are 1x1 convolutions with the groups of the host; embed first, pad after; K has no bias. Under a
    stride Q and the shifted copies are strided and K sees full resolution.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host. The reach of the branch is its own `shift`,
            whatever the host's kernel and dilation.
        embed_ratio: E / out_chs, above 0; E is rounded to whole channels in each group, at least one.
        shift: L in pixels of the input, at least 1.
        directions: 4 (up, left, right, down), 8 (with the diagonals) or 9 (with the centre).
        border: what k is outside of the image: "zero", or "replicate" its nearest pixel.
        q_bias: give q a bias.
        mix_kernel: m, odd: P is an m x m convolution of what the branch gives at the output pixels around, with zeros
            outside of the map.
        norm: after the branch in a block: "batch", or "none" for a scale and a shift of each channel.
    """

    name = "pssa_dense"

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        embed_ratio: float = 1.0,
        shift: int = 1,
        directions: int = 8,
        border: str = "zero",
        q_bias: bool = False,
        mix_kernel: int = 1,
        norm: str = "batch",
        **host: Unpack[Host],
    ) -> None:
        super().__init__(
            in_chs,
            out_chs,
            embed_ratio=embed_ratio,
            shift=shift,
            directions=directions,
            border=border,
            q_bias=q_bias,
            mix_kernel=mix_kernel,
            norm=norm,
            **host,
        )
        factory = factory_of(host)
        self.query = self._embed(self.embed_chs, stride=self.geometry.stride, bias=q_bias, **factory)
        self.key = self._embed(self.embed_chs, **factory)
        self.project = self._projection(self.embed_chs * directions, **factory)
        self.reset_parameters()

    def embeddings(self) -> tuple[nn.Conv2d, ...]:
        """Q and K."""
        return self.query, self.key

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W'), for any H, W from 1 up."""
        q_BEHW = self.query(x_BCHW)
        copies_BEDHW = torch.stack(shifted(self.key(x_BCHW), **self._window()), dim=2)
        return self.project((q_BEHW[:, :, None] * copies_BEDHW).flatten(1, 2))

    def _take_static_part(self, static: Geometry) -> Kernel | None:
        """The query bias's part: sum_d P_d diag(b_q) K at tap d, a convolution where all borders are that of x."""
        if self.border != "zero" or self.mix_kernel > 1:
            return None
        window = tap_window(torch.eye(self.directions).to(self.project.weight).repeat(self.embed_chs, 1))
        return self._take_query_bias(window, self.shift, static)

    def _products(self, x_BCHW: Tensor) -> Tensor:
        """diag(Q x_0 + b_q) K, for the copy of each direction in that direction (ours)."""
        groups, embed = self.geometry.groups, self.embed_chs // self.geometry.groups
        products_BDgcfiHW = torch.einsum(
            "df,bgchw,gci->bdgcfihw",
            torch.eye(self.directions).to(x_BCHW),
            self.query(x_BCHW).unflatten(1, (groups, embed)),
            self.key.weight.view(groups, embed, -1),
        )
        return products_BDgcfiHW.flatten(2, 4)

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """One product for each embedding channel and direction."""
        return self.embed_chs * self.directions * out_size[0] * out_size[1]
