"""Bottleneck attention (rival): a thin adapter over timm's layer.

B = batch, C = channels (I = in, O = out), H, W = height, width, K = channels of a query head.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from timm.layers.bottleneck_attn import BottleneckAttn, rel_logits_1d
from torch import Tensor

from xvol.branches.base import Host, factory_of
from xvol.branches.options import check_flag, check_ratio, check_whole
from xvol.branches.timm_layer import TimmBranch, pool_as_timm

__all__ = ["Bottleneck"]


class _AnySizeBottleneck(BottleneckAttn):
    """timm's layer on any map up to its feature size: the tables of relative positions are cropped about offset 0."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        height, width = x_BCHW.shape[2:]
        chs = [self.dim_out_qk, self.dim_out_qk, self.dim_out_v]
        parts = torch.split(self.qkv(x_BCHW), chs, dim=1)
        q, k, v = (part.flatten(2).unflatten(1, (self.num_heads, -1)).flatten(0, 1).mT for part in parts)
        positions = self._positions(q, height, width)
        if self.scale_pos_embed:
            positions = positions * self.scale
        attention = ((q @ k.mT) * self.scale + positions).softmax(dim=-1)
        z_BCHW = (attention @ v).mT.reshape(-1, self.dim_out_v, height, width)
        return self.pool(z_BCHW)

    def _positions(self, q_NPK: Tensor, height: int, width: int) -> Tensor:
        q_NHWK = q_NPK.unflatten(1, (height, width))
        rows = self.pos_embed.height_rel[self.pos_embed.height - height :][: 2 * height - 1]
        columns = self.pos_embed.width_rel[self.pos_embed.width - width :][: 2 * width - 1]
        across = rel_logits_1d(q_NHWK, columns, permute_mask=[0, 1, 3, 2, 4])
        down = rel_logits_1d(q_NHWK.transpose(1, 2), rows, permute_mask=[0, 3, 1, 4, 2])
        return (across + down).reshape(-1, height * width, height * width)


class Bottleneck(TimmBranch):
    """softmax(q^T k / sqrt(c) + relative positions) v over the whole image: timm's `BottleneckAttn`.

    Bottleneck Transformers for Visual Recognition, arXiv 2101.11605. timm's layer takes maps of one size; here smaller
    ones are exact as well, with its tables of relative positions cropped. The pool under stride 2 takes what is left of
    odd sizes. The host's kernel and dilation make no difference.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; stride 1 or 2, no groups.
        heads: at least 1; must divide out_chs.
        feat_size: largest height and width of the input that the tables of positions reach over, in pixels.
        qk_ratio: channels of queries and keys over out_chs, above 0.
        qkv_bias: give q, k and v a bias.

    Raises:
        ValueError: in `forward`, on a map larger than `feat_size`.
    """

    name = "bottleneck_attn"

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        heads: int = 4,
        feat_size: int = 14,
        qk_ratio: float = 1.0,
        qkv_bias: bool = False,
        **host: Unpack[Host],
    ) -> None:
        super().__init__(
            in_chs,
            out_chs,
            heads=heads,
            feat_size=feat_size,
            qk_ratio=qk_ratio,
            qkv_bias=qkv_bias,
            **host,
        )
        self.feat_size = feat_size
        layer: Any = _AnySizeBottleneck(
            in_chs,
            out_chs,
            feat_size=(feat_size, feat_size),
            stride=self.geometry.stride,
            num_heads=heads,
            qk_ratio=qk_ratio,
            qkv_bias=qkv_bias,
            **factory_of(host),
        )
        layer.pool = pool_as_timm(self.geometry.stride)
        self.layer = layer
        self.reset_parameters()

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Refuse what the class docstring does not allow."""
        check_whole("bottleneck_attn", options, "heads", "feat_size")
        check_ratio("bottleneck_attn", options, "qk_ratio")
        check_flag("bottleneck_attn", options, "qkv_bias")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W'), for H, W from 1 up to `feat_size`."""
        height, width = x_BCHW.shape[2:]
        if max(height, width) > self.feat_size:
            raise ValueError(
                f"bottleneck_attn: a map of {height}x{width} is larger than feat_size={self.feat_size}: "
                f"set feat_size to at least {max(height, width)}"
            )
        return super().forward(x_BCHW)
