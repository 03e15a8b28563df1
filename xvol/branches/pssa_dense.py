"""Pixel Shift Self-Attention as the paper's text has it: shifted copies and a dense matrix for each direction.

B = batch, C = channels (I = in, E = embedding, O = out), D = directions, H, W = height, width, g = groups.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xvol.branches.attention import AttentionBranch, embedding_chs
from xvol.branches.base import Geometry
from xvol.branches.options import check_flag, check_ratio
from xvol.branches.window import check_window, place, shifted, tap_window
from xvol.fold import Kernel, dilate, product_static_part
from xvol.registry import register_branch

__all__ = ["PSSADense"]


@register_branch("pssa_dense")
class PSSADense(AttentionBranch):
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
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        embed_ratio: float = 1.0,
        shift: int = 1,
        directions: int = 8,
        border: str = "zero",
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
            embed_ratio=embed_ratio,
            shift=shift,
            directions=directions,
            border=border,
            q_bias=q_bias,
        )
        self.shift, self.directions, self.border = shift, directions, border
        self.embed_chs = embedding_chs(embed_ratio, self.geometry)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.query = self._embed(self.embed_chs, stride=stride, bias=q_bias, **factory)
        self.key = self._embed(self.embed_chs, **factory)
        self.project = self._projection(self.embed_chs * directions, **factory)
        self.reset_parameters()

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Refuse what the class docstring does not allow."""
        check_ratio("pssa_dense", options, "embed_ratio")
        check_window("pssa_dense", options)
        check_flag("pssa_dense", options, "q_bias")

    def embeddings(self) -> tuple[nn.Conv2d, ...]:
        """Q and K."""
        return self.query, self.key

    def _window(self) -> dict[str, Any]:
        stride = self.geometry.stride
        return {"directions": self.directions, "shift": self.shift, "stride": stride, "border": self.border}

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W'), for any H, W from 1 up."""
        q_BEHW = self.query(x_BCHW)
        copies_BEDHW = torch.stack(shifted(self.key(x_BCHW), **self._window()), dim=2)
        return self.project((q_BEHW[:, :, None] * copies_BEDHW).flatten(1, 2))

    def _take_static_part(self, static: Geometry) -> Kernel | None:
        """The query bias's part: sum_d P_d diag(b_q) K at tap d; with a zero border a convolution."""
        on_taps = self.shift % static.dilation == 0 and self.shift <= static.same_padding
        if self.query.bias is None or not on_taps or self.border != "zero":
            return None
        taps = tap_window(torch.eye(self.directions).to(self.project.weight).repeat(self.embed_chs, 1))
        weights = (self.project.weight.detach(), taps, self.query.bias.detach(), self.key.weight.detach())
        self.query.bias = None
        return dilate(*product_static_part(*weights, self.geometry.groups), self.shift // static.dilation)

    def dynamic_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """P_d diag(Q x_0 + b_q) K at each pixel (ours)."""
        groups, embed = self.geometry.groups, self.embed_chs // self.geometry.groups
        coefficient_BDgoiHW = torch.einsum(
            "gocd,bgchw,gci->bdgoihw",
            self.project.weight.view(groups, -1, embed, self.directions),
            self.query(x_BCHW).unflatten(1, (groups, embed)),
            self.key.weight.view(groups, embed, -1),
        )
        size = (x_BCHW.shape[2], x_BCHW.shape[3])
        return place(coefficient_BDgoiHW.flatten(2, 3), size, **self._window()), self._projection_bias()

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """One product for each embedding channel and direction."""
        return self.embed_chs * self.directions * out_size[0] * out_size[1]
