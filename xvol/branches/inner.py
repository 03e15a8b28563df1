"""Pixel Shift Self-Attention with inner products, as the paper's equations have it, with heads.

B = batch, C = channels (I = in, E = embedding, V = of values, O = out), D = directions, H, W = height, width,
g = groups, h = heads of one group, c = embedding channels of one head.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from xvol.branches.attention import ShiftedBranch, embedding_chs, heads_in_group, pad_edges, shifted, tap_window
from xvol.branches.base import Geometry, Host, factory_of
from xvol.branches.options import RATIO, WHOLE


class PSSAInner(ShiftedBranch):
    """P sum_d a_{d,h} <q, S_d k>_h S_d v / (D c), head by head: (B, I, H, W) -> (B, O, H', W').

    q = Q x + b_q, k = K x, v = V x, S_d k(y) = k(y + shift * d); <., .>_h sums over the c channels of head h. With one
    head it is the paper's w^A(x_0, x_i) = w^q w^k w^v <x_0, x_i>; the scale 1 / (D c) (ours) keeps fp16 finite and is
    undone by the norm after the branch. With a head for each channel it equals P (q * DW_a(k * v)) / D (ours), one
    depthwise convolution without shifted copies. Embeddings are 1x1 convolutions with the groups of the host; embed
    first, pad after; K and V have no bias. Under a stride Q and the shifted copies are strided.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host. The reach of the branch is its own `shift`,
            whatever the host's kernel and dilation.
        heads: heads in each group; must divide the group's embedding channels. None gives each channel its own.
        embed_ratio: E / out_chs, above 0, of q and k; E is rounded to whole channels in each group, at least one.
        shift: L in pixels of the input, at least 1.
        directions: 4 (up, left, right, down), 8 (with the diagonals) or 9 (with the centre).
        border: what k and v are outside of the image: "zero", or "replicate" their nearest pixel.
        q_bias: give q a bias.
        value_ratio: V / out_chs, above 0, rounded likewise; the heads must divide it. None takes `embed_ratio`.
        mix_kernel: m, odd: P is an m x m convolution of what the branch gives at the output pixels around, with zeros
            outside of the map.
        norm: after the branch in a block: "batch", or "none" for a scale and a shift of each channel.
    """

    name = "pssa_inner"
    later_options = ShiftedBranch.later_options | {"value_ratio"}
    rules = ShiftedBranch.rules | {
        "heads": WHOLE.or_none("a head for each channel"),
        "value_ratio": RATIO.or_none("that of embed_ratio"),
    }

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        heads: int | None = 1,
        embed_ratio: float = 1.0,
        shift: int = 1,
        directions: int = 8,
        border: str = "zero",
        q_bias: bool = False,
        value_ratio: float | None = None,
        mix_kernel: int = 1,
        norm: str = "batch",
        **host: Unpack[Host],
    ) -> None:
        super().__init__(
            in_chs,
            out_chs,
            heads=heads,
            embed_ratio=embed_ratio,
            shift=shift,
            directions=directions,
            border=border,
            q_bias=q_bias,
            value_ratio=value_ratio,
            mix_kernel=mix_kernel,
            norm=norm,
            **host,
        )
        self.value_chs = embedding_chs(embed_ratio if value_ratio is None else value_ratio, self.geometry)
        self.heads = heads_in_group(self.name, heads, embed_ratio, self.geometry) * self.geometry.groups
        self.head_chs = self.embed_chs // self.heads
        factory = factory_of(host)
        self.query = self._embed(self.embed_chs, stride=self.geometry.stride, bias=q_bias, **factory)
        self.key = self._embed(self.embed_chs, **factory)
        self.value = self._embed(self.value_chs, **factory)
        self.taps = nn.Parameter(torch.empty(self.heads, directions, **factory))
        self.project = self._projection(self.value_chs, **factory)
        self.reset_parameters()

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse heads that do not divide the embedding and the values, and what the docstring does not allow."""
        super().check(geometry, **options)
        heads = heads_in_group(cls.name, options.get("heads", 1), options.get("embed_ratio", 1.0), geometry)
        ratio = options.get("value_ratio")
        values = heads if ratio is None else embedding_chs(ratio, geometry) // geometry.groups
        if values % heads:
            raise ValueError(
                f"{cls.name}: value_ratio={ratio} gives {values} value channels (of each group), which the {heads} heads "
                "do not divide: choose another, or fewer heads"
            )

    def embeddings(self) -> tuple[nn.Conv2d, ...]:
        """Q, K and V."""
        return self.query, self.key, self.value

    def reset_parameters(self) -> None:
        """Draw all weights normal: maps preserving the variance of their inputs, taps of variance 1."""
        super().reset_parameters()
        nn.init.normal_(self.taps)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W'), for any H, W from 1 up."""
        q_BEHW = self.query(x_BCHW) / (self.directions * self.head_chs)
        k_BEHW, v_BVHW = self.key(x_BCHW), self.value(x_BCHW)
        if self._is_depthwise():
            return self.project(q_BEHW * self._depthwise(k_BEHW * v_BVHW))
        values = shifted(v_BVHW, **self._window())
        terms = [
            weight_BhHW[:, :, None] * value_BVHW.unflatten(1, (self.heads, -1))
            for weight_BhHW, value_BVHW in zip(self._weights(q_BEHW, k_BEHW), values, strict=True)
        ]
        total_BhcHW = terms[0]
        for term in terms[1:]:
            total_BhcHW = total_BhcHW + term
        return self.project(total_BhcHW.flatten(1, 2))

    def _is_depthwise(self) -> bool:
        """A head for each channel, of one value."""
        return self.head_chs == 1 and self.value_chs == self.embed_chs

    def _weights(self, q_BEHW: Tensor, k_BEHW: Tensor) -> list[Tensor]:
        """a_{d,h} <q, S_d k>_h for each direction: D maps (B, h, H', W')."""
        keys = shifted(k_BEHW, **self._window())
        return [
            tap_h[:, None, None] * (q_BEHW * key_BEHW).unflatten(1, (self.heads, -1)).sum(2)
            for tap_h, key_BEHW in zip(self.taps.to(k_BEHW.dtype).unbind(1), keys, strict=True)
        ]

    def _depthwise(self, kv_BEHW: Tensor) -> Tensor:
        """sum_d a_d S_d (k * v): the products shift together, so that one depthwise convolution does it."""
        padding = self.shift
        if self.border == "replicate":
            kv_BEHW, padding = pad_edges(kv_BEHW, padding), 0
        window = tap_window(self.taps)
        return functional.conv2d(
            kv_BEHW,
            window,
            stride=self.geometry.stride,
            padding=padding,
            dilation=self.shift,
            groups=self.embed_chs,
        )

    def _products(self, x_BCHW: Tensor) -> Tensor:
        """blockdiag(a_{d,h} <q_0, k_d>_h / (D c)) V for each direction (ours)."""
        q_BEHW = self.query(x_BCHW) / (self.directions * self.head_chs)
        weights_BDhHW = torch.stack(self._weights(q_BEHW, self.key(x_BCHW)), dim=1)
        weights_BDVHW = weights_BDhHW.repeat_interleave(self.value_chs // self.heads, dim=2)
        value_VI = self.value.weight.flatten(1)
        return weights_BDVHW[:, :, :, None] * value_VI[:, :, None, None]

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """D (E + h + V) products; with a head for each channel 2 E, less the taps outside of `directions`.

        There k * v is at full resolution: counted at stride^2 pixels for each output pixel.
        """
        pixels = out_size[0] * out_size[1]
        if self._is_depthwise():
            return self.embed_chs * (1 + self.geometry.stride**2 - (9 - self.directions)) * pixels
        return self.directions * (self.embed_chs + self.heads + self.value_chs) * pixels
