"""Pixel Shift Self-Attention with one query for the whole image: a dynamic convolution for each sample.

B = batch, C = channels (I = in, E = embedding, O = out), R = rank, D = directions, H, W = height, width, g = groups.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xvol.branches.attention import AttentionBranch, embedding_chs
from xvol.branches.base import Geometry
from xvol.branches.options import check_flag, check_ratio, check_whole
from xvol.branches.window import check_window, tap_window
from xvol.fold import Kernel, dilate, product_static_part
from xvol.registry import register_branch

__all__ = ["GAPQuery"]


@register_branch("gap_query")
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
    """

    has_sample_kernel = True

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        rank: int = 1,
        embed_ratio: float = 1.0,
        shift: int = 1,
        directions: int = 8,
        q_bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_chs,
            out_chs,
            kernel_size=kernel_size,
            stride=stride,
            dilation=dilation,
            groups=groups,
            rank=rank,
            embed_ratio=embed_ratio,
            shift=shift,
            directions=directions,
            q_bias=q_bias,
        )
        self.rank, self.shift, self.directions = rank, shift, directions
        self.embed_chs = embedding_chs(embed_ratio, self.geometry)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.query = self._embed(self.embed_chs, bias=q_bias, **factory)
        self.key = self._embed(self.embed_chs, **factory)
        self.taps = nn.Parameter(torch.empty(self.embed_chs * rank, directions, **factory))
        self.project = self._projection(self.embed_chs * rank, **factory)
        self.reset_parameters()

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Refuse what the class docstring does not allow."""
        check_whole("gap_query", options, "rank")
        check_ratio("gap_query", options, "embed_ratio")
        check_window("gap_query", options)
        check_flag("gap_query", options, "q_bias")

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
            padding=self.shift,
            dilation=self.shift,
            groups=self.embed_chs,
        )
        return self.project(self._query(x_BCHW).repeat_interleave(self.rank, dim=1) * neighbours_BCHW)

    def _query(self, x_BCHW: Tensor) -> Tensor:
        """One query for each sample: (B, E, 1, 1)."""
        return self.query(x_BCHW.mean((2, 3), keepdim=True))

    def _take_static_part(self, static: Geometry) -> Kernel | None:
        """The query bias's part: sum_r P^r diag(a^r_d) diag(b_q) K at tap d."""
        on_taps = self.shift % static.dilation == 0 and self.shift <= static.same_padding
        if self.query.bias is None or not on_taps:
            return None
        taps = tap_window(self.taps.detach())
        weights = (self.project.weight.detach(), taps, self.query.bias.detach(), self.key.weight.detach())
        self.query.bias = None
        return dilate(*product_static_part(*weights, self.geometry.groups), self.shift // static.dilation)

    def sample_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """P_d diag(Q mean(x) + b_q) K at tap d, for each sample (ours); the shift is written out as zeros."""
        groups, embed = self.geometry.groups, self.embed_chs // self.geometry.groups
        kernel_BgoIkk = torch.einsum(
            "gocr,gcrmn,bgc,gci->bgoimn",
            self.project.weight.view(groups, -1, embed, self.rank),
            tap_window(self.taps).view(groups, embed, self.rank, 3, 3),
            self._query(x_BCHW).view(-1, groups, embed),
            self.key.weight.view(groups, embed, -1),
        )
        bias_O = self._projection_bias()
        kernel_BOIkk = kernel_BgoIkk.flatten(1, 2)
        spread, _ = dilate(kernel_BOIkk.flatten(0, 1), bias_O, self.shift)
        return spread.unflatten(0, kernel_BOIkk.shape[:2]), bias_O

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """One product for each embedding and rank, less the taps outside of `directions`: zero by construction."""
        return self.embed_chs * self.rank * (1 - (9 - self.directions)) * out_size[0] * out_size[1]
