"""Pixel Shift Self-Attention with one query for the whole image: a dynamic convolution for each sample.

B = batch, C = channels (I = in, E = embedding, O = out), R = rank, D = directions, H, W = height, width, g = groups.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from xvol.branches.attention import WINDOW, AttentionBranch, tap_window
from xvol.branches.base import Geometry, Host, factory_of
from xvol.branches.options import WHOLE
from xvol.fold import Kernel, compose_taps


class GAPQuery(AttentionBranch):
    """sum_r P^r (q * DW_{a^r}(k)) with q = Q mean(x) + b_q, k = K x: (B, I, H, W) -> (B, O, H', W') (ours).

    `pssa` with the query of the whole image, its global average pool, in place of each pixel's own. So each sample has
    exactly one convolution, of kernel P_d diag(q) K at tap d (`sample_kernel`), and with a conv branch beside it the
    block is one standard convolution for each sample. The border is zero, because with another it would be none. The
    embeddings are 1x1 convolutions with the groups of the host; K has no bias. Under a stride the depthwise stage is
    strided and K sees full resolution.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host. The reach of the branch is its own `shift`,
            whatever the host's kernel and dilation.
        rank: R, at least 1.
        embed_ratio: E / out_chs, above 0; E is rounded to whole channels in each group, at least one.
        shift: L in pixels of the input, at least 1.
        directions: 4 (up, left, right, down), 8 (with the diagonals) or 9 (with the centre).
        q_bias: give q a bias.
        mix_kernel: m, odd: P is an m x m convolution of the products, which outside of the map are those of an image
            grown by zeros, so that the branch stays one convolution for each sample.
        norm: after the branch in a block: "batch", or "none" for a scale and a shift of each channel.
    """

    name = "gap_query"
    rules = AttentionBranch.rules | WINDOW | {"rank": WHOLE}
    has_dynamic_kernel = has_sample_kernel = True

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        rank: int = 1,
        embed_ratio: float = 1.0,
        shift: int = 1,
        directions: int = 8,
        q_bias: bool = False,
        mix_kernel: int = 1,
        norm: str = "batch",
        **host: Unpack[Host],
    ) -> None:
        super().__init__(
            in_chs,
            out_chs,
            rank=rank,
            embed_ratio=embed_ratio,
            shift=shift,
            directions=directions,
            q_bias=q_bias,
            mix_kernel=mix_kernel,
            norm=norm,
            **host,
        )
        self.rank, self.shift, self.directions = rank, shift, directions
        factory = factory_of(host)
        self.query = self._embed(self.embed_chs, bias=q_bias, **factory)
        self.key = self._embed(self.embed_chs, **factory)
        self.taps = nn.Parameter(torch.empty(self.embed_chs * rank, directions, **factory))
        self.project = self._projection(self.embed_chs * rank, padding=0, **factory)
        self.reset_parameters()

    @property
    def reach(self) -> int:
        """Pixels of the input that the branch sees on each side: of the shift, and of P's window of output pixels."""
        return self.shift + self.geometry.stride * (self.mix_kernel // 2)

    def embeddings(self) -> tuple[nn.Conv2d, ...]:
        """Q and K."""
        return self.query, self.key

    def reset_parameters(self) -> None:
        """Draw all weights normal, each map preserving the variance of its input; the query bias starts at zero."""
        super().reset_parameters()
        nn.init.normal_(self.taps, std=self.directions**-0.5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W'), for any H, W from 1 up."""
        neighbours_BCHW = functional.conv2d(
            self.key(x_BCHW),
            tap_window(self.taps),
            stride=self.geometry.stride,
            padding=self.reach,
            dilation=self.shift,
            groups=self.embed_chs,
        )
        return self.project(self._query(x_BCHW).repeat_interleave(self.rank, dim=1) * neighbours_BCHW)

    def _query(self, x_BCHW: Tensor) -> Tensor:
        """One query for each sample: (B, E, 1, 1)."""
        return self.query(x_BCHW.mean((2, 3), keepdim=True))

    def _take_static_part(self, static: Geometry) -> Kernel | None:
        """The query bias's part: sum_r P^r diag(a^r_d) diag(b_q) K at tap d, whatever the size of P."""
        return self._take_query_bias(tap_window(self.taps), self.shift, static)

    def sample_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """P_d diag(Q mean(x) + b_q) K at tap d, for each sample (ours); the shift is written out as zeros."""
        groups, embed = self.geometry.groups, self.embed_chs // self.geometry.groups
        taps_BgoImmkk = torch.einsum(
            "gocrtu,gcrmn,bgc,gci->bgoitumn",
            self.project.weight.view(groups, -1, embed, self.rank, *self.project.weight.shape[2:]),
            tap_window(self.taps).view(groups, embed, self.rank, 3, 3),
            self._query(x_BCHW).view(-1, groups, embed),
            self.key.weight.view(groups, embed, -1),
        )
        return compose_taps(taps_BgoImmkk.flatten(1, 2), self.geometry.stride, self.shift), self._projection_bias()

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """One product for each embedding and rank, less the taps outside of `directions`: zero by construction.

        With a larger P both are wanted at the output pixels around the map as well.
        """
        height, width = (size + self.mix_kernel - 1 for size in out_size)
        return self.embed_chs * self.rank * (1 - (9 - self.directions)) * height * width
