"""Attention layers of timm (rivals) behind thin adapters.

B = batch, C = channels (I = in, O = out), H, W = height, width, K = channels of a query head, V = of a value head.
"""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import torch
from timm.layers import make_divisible
from timm.layers.bottleneck_attn import BottleneckAttn, rel_logits_1d
from timm.layers.halo_attn import HaloAttn
from timm.layers.lambda_layer import LambdaLayer
from torch import Tensor, nn
from torch.nn import functional

from xvol.allowed import ODD, RATIO, WHOLE
from xvol.branches.base import Geometry, Host, factory_of
from xvol.branches.rivals import RivalBranch


class TimmBranch(RivalBranch):
    """An adapter over one layer of timm: (B, I, H, W) -> (B, O, H', W'), strided by 1 or 2."""

    strides = (1, 2)
    layer: nn.Module

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse heads that do not divide the channels, and what no layer of timm's takes."""
        super().check(geometry, **options)
        heads = options.get("heads", 1)
        cls._check_heads(heads, geometry)
        if make_divisible(geometry.out_chs * options.get("qk_ratio", 1.0), 8) < heads:
            raise ValueError(f"{cls.name}: heads={heads} is refused: timm leaves them no query channels")

    def reset_parameters(self) -> None:
        """Initialise as timm does; biases start at zero, inner norms as new."""
        for part in self.layer.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.reset_parameters()
            elif isinstance(part, nn.Conv2d) and part.bias is not None:
                nn.init.zeros_(part.bias)
        self.layer.reset_parameters()  # type: ignore[operator]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W')."""
        return self._finish(self.layer(x_BCHW))


def pool_as_timm(stride: int) -> nn.Module:
    """timm's pool under stride 2; at odd sizes the last row and column are means of what is there."""
    return nn.Identity() if stride == 1 else nn.AvgPool2d(stride, stride, ceil_mode=True)


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
    rules: ClassVar = {"heads": WHOLE, "feat_size": WHOLE, "qk_ratio": RATIO}

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
            in_chs, out_chs, heads=heads, feat_size=feat_size, qk_ratio=qk_ratio, qkv_bias=qkv_bias, **host
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

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W'), for H, W from 1 up to `feat_size`."""
        height, width = x_BCHW.shape[2:]
        if max(height, width) > self.feat_size:
            raise ValueError(
                f"bottleneck_attn: a map of {height}x{width} is larger than feat_size={self.feat_size}: "
                f"set feat_size to at least {max(height, width)}"
            )
        return super().forward(x_BCHW)


class Halo(TimmBranch):
    """softmax(q^T k / sqrt(c) + relative positions) v within blocks and a halo around each: timm's `HaloAttn`.

    Scaling Local Self-Attention for Parameter Efficient Visual Backbones, arXiv 2103.12731. timm asks for maps of whole
    blocks: others are filled up with zeros below and at the right, as timm's layer itself sees zeros around the image,
    and cropped; on whole blocks the adapter is timm's layer. The host's kernel and dilation make no difference.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; stride 1 or 2, no groups.
        heads: at least 1; must divide out_chs.
        block_size: in pixels, at least 1; even under stride 2.
        halo_size: width of the halo in pixels, at least 1.
        qk_ratio: channels of queries and keys over out_chs, above 0.
    """

    name = "halo"
    rules: ClassVar = {"heads": WHOLE, "block_size": WHOLE, "halo_size": WHOLE, "qk_ratio": RATIO}

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        heads: int = 8,
        block_size: int = 8,
        halo_size: int = 3,
        qk_ratio: float = 1.0,
        **host: Unpack[Host],
    ) -> None:
        super().__init__(
            in_chs, out_chs, heads=heads, block_size=block_size, halo_size=halo_size, qk_ratio=qk_ratio, **host
        )
        self.block_size = block_size
        self.layer = HaloAttn(
            in_chs,
            out_chs,
            stride=self.geometry.stride,
            num_heads=heads,
            block_size=block_size,
            halo_size=halo_size,
            qk_ratio=qk_ratio,
            **factory_of(host),
        )
        self.reset_parameters()

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse strided blocks that are odd, and what timm's layer does not take."""
        super().check(geometry, **options)
        block_size = options.get("block_size", 8)
        if geometry.stride == 2 and block_size % 2:
            raise ValueError(f"halo: block_size={block_size} is refused: under stride 2 it must be even")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W'), for any H, W from 1 up."""
        height, width = x_BCHW.shape[2:]
        fill = [0, -width % self.block_size, 0, -height % self.block_size]
        stride = self.geometry.stride
        y_BCHW = self.layer(functional.pad(x_BCHW, fill))
        return self._finish(y_BCHW[:, :, : (height - 1) // stride + 1, : (width - 1) // stride + 1])


class _LambdaConv(nn.Conv2d):
    """timm's 3-D convolution of window (r, r, 1), (B, 1, H, W, V) -> (B, K, H, W, V), with a 4-D weight."""

    def forward(self, v_B1HWV: Tensor) -> Tensor:
        """Convolve each value channel by itself."""
        batch, value_chs = v_B1HWV.shape[0], v_B1HWV.shape[-1]
        y_NKHW = super().forward(v_B1HWV.permute(0, 4, 1, 2, 3).flatten(0, 1))
        return y_NKHW.unflatten(0, (batch, value_chs)).permute(0, 2, 3, 4, 1)


class Lambda(TimmBranch):
    """(softmax(k) v^T + E * v)^T q head by head, E a local window: timm's `LambdaLayer`.

    LambdaNetworks: Modeling Long-Range Interactions Without Attention, arXiv 2102.08602. The adapter holds timm's 3-D
    convolution as a 2-D one (a 5-D weight breaks `channels_last`), and its pool under stride 2 takes what is left of odd
    sizes; else it is timm's layer. The host's kernel and dilation make no difference.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; as many channels out as in (timm's layer
            gives no others), stride 1 or 2, no groups.
        heads: at least 1; must divide out_chs.
        window: size of the local window of positions, odd.
        qk_ratio: channels of queries over out_chs, above 0; K is that over the heads.
    """

    name = "lambda_layer"
    keeps_chs = True
    rules: ClassVar = {"heads": WHOLE, "window": ODD, "qk_ratio": RATIO}

    def __init__(
        self, in_chs: int, out_chs: int, *, heads: int = 4, window: int = 9, qk_ratio: float = 1.0, **host: Unpack[Host]
    ) -> None:
        super().__init__(in_chs, out_chs, heads=heads, window=window, qk_ratio=qk_ratio, **host)
        factory = factory_of(host)
        shape: dict[str, Any] = {"num_heads": heads, "dim_head": None, "r": window, "qk_ratio": qk_ratio}
        layer: Any = LambdaLayer(in_chs, out_chs, stride=self.geometry.stride, **shape, **factory)
        layer.conv_lambda = _LambdaConv(1, layer.dim_qk, window, padding=window // 2, **factory)
        layer.pool = pool_as_timm(self.geometry.stride)
        self.layer = layer
        self.reset_parameters()
