"""Self-attention by inner products: over the shifted window, as the paper's equations have it, and over the whole image.

B = batch, C = channels (I = in, E = embedding, V = of values, O = out), D = directions, H, W = height, width, N = H * W,
g = groups, h = heads of one group, c = embedding channels of one head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xvol.allowed import RATIO, WHOLE
from xvol.branches.attention import (
    AttentionBranch,
    ShiftedBranch,
    embedding_chs,
    heads_in_group,
    pad_edges,
    shifted,
    tap_window,
)
from xvol.branches.base import Geometry, factory_of
from xvol.fold import dilate


class PSSAInner(ShiftedBranch):
    """P sum_d a_{d,h} <q, S_d k>_h S_d v / (D c), head by head: (B, I, H, W) -> (B, O, H', W').

    q = Q x + b_q, k = K x, v = V x, S_d k(y) = k(y + shift * d); <., .>_h sums over the c channels of head h. With one
    head it is the paper's w^A(x_0, x_i) = w^q w^k w^v <x_0, x_i>; the scale 1 / (D c) (ours) keeps fp16 finite and is
    undone by the norm after the branch. With a head for each channel it equals P (q * DW_a(k * v)) / D (ours), one
    depthwise convolution without shifted copies. Embeddings are 1x1 convolutions with the groups of the host; embed
    first, pad after; K and V have no bias. Under a stride Q and the shifted copies are strided.

    Args:
        heads: heads in each group; must divide the group's embedding channels. None gives each channel its own.
        value_ratio: V / out_chs, above 0, rounded as E is; the heads must divide it. None takes `embed_ratio`.
        rest: as in `ShiftedBranch`.
    """

    name = "pssa_inner"
    later_options = ShiftedBranch.later_options | {"value_ratio"}
    rules = ShiftedBranch.rules | {
        "heads": WHOLE.or_none("a head for each channel"),
        "value_ratio": RATIO.or_none("that of embed_ratio"),
    }

    def __init__(
        self, in_chs: int, out_chs: int, *, heads: int | None = 1, value_ratio: float | None = None, **rest: Any
    ) -> None:
        super().__init__(in_chs, out_chs, heads=heads, value_ratio=value_ratio, **rest)
        ratio = rest.get("embed_ratio", 1.0)
        self.value_chs = embedding_chs(ratio if value_ratio is None else value_ratio, self.geometry)
        self.heads = heads_in_group(self.name, heads, ratio, self.geometry) * self.geometry.groups
        self.head_chs = self.embed_chs // self.heads
        factory = factory_of(rest)
        self.value = self._embed(self.value_chs, **factory)
        self.taps = nn.Parameter(torch.empty(self.heads, self.directions, **factory))
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
        how = (self.geometry.stride, padding, self.shift, self.embed_chs)
        return functional.conv2d(kv_BEHW, tap_window(self.taps), None, *how)

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


class _GlobalAttention(AttentionBranch):
    """Q (strided), K, V and P, and heads that lie within the host's groups."""

    rules = AttentionBranch.rules | {"heads": WHOLE}

    def __init__(self, in_chs: int, out_chs: int, *, heads: int = 1, **rest: Any) -> None:
        super().__init__(in_chs, out_chs, heads=heads, **rest)
        self.heads = (
            heads_in_group(self.name, heads, rest.get("embed_ratio", 1.0), self.geometry) * self.geometry.groups
        )
        factory, q_bias = factory_of(rest), rest.get("q_bias", False)
        self.query = self._embed(self.embed_chs, stride=self.geometry.stride, bias=q_bias, **factory)
        self.key = self._embed(self.embed_chs, **factory)
        self.value = self._embed(self.embed_chs, **factory)
        self.project = self._projection(self.embed_chs, **factory)
        self.reset_parameters()

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse heads that do not divide the embedding, and what the class docstring does not allow."""
        super().check(geometry, **options)
        heads_in_group(cls.name, options.get("heads", 1), options.get("embed_ratio", 1.0), geometry)

    def _by_head(self, map_BEHW: Tensor) -> Tensor:
        """(B, E, H, W) -> (B, h, c, N)."""
        return map_BEHW.flatten(2).unflatten(1, (self.heads, -1))


class LinearGlobal(_GlobalAttention):
    """P (v k^T / n) q head by head, q = Q x, k = K x, v = V x, n = H W: (B, I, H, W) -> (B, O, H', W').

    Self-attention of every pixel with every other without softmax, summed in the order that is linear in pixels. For
    each sample it is exactly one convolution, P blockdiag_h(v k^T / n) Q, of the size of P (ours): with a conv branch beside it, the
    block is one standard convolution for each sample (`sample_kernel`). The embeddings are 1x1 convolutions with the
    groups of the host, without biases. Under a stride Q is strided; K and V see full resolution.

    Args:
        heads: heads in each group, at least 1; must divide the group's embedding channels.
        rest: as in `AttentionBranch`.
    """

    name = "linear_global"
    has_dynamic_kernel = has_sample_kernel = True

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W')."""
        q_BEHW = self.query(x_BCHW)
        z_BhcN = self._gram(x_BCHW) @ self._by_head(q_BEHW)
        return self.project(z_BhcN.flatten(1, 2).unflatten(2, q_BEHW.shape[2:]))

    def _gram(self, x_BCHW: Tensor) -> Tensor:
        """v k^T / n for each head: (B, h, c, c). Divided first, so that the sum over pixels stays finite in fp16."""
        k_BhcN = self._by_head(self.key(x_BCHW)) / (x_BCHW.shape[2] * x_BCHW.shape[3])
        return self._by_head(self.value(x_BCHW)) @ k_BhcN.transpose(2, 3)

    def sample_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """P blockdiag_h(v k^T / n) Q for each sample (ours), a 1x1 convolution where P is one.

        A larger P sees every stride-th pixel, so its taps stand a stride apart.
        """
        groups, heads = self.geometry.groups, self.heads // self.geometry.groups
        chs = self.embed_chs // self.heads
        kernel_BgoImm = torch.einsum(
            "gohctu,bghcd,ghdi->bgoitu",
            self.project.weight.view(groups, -1, heads, chs, *self.project.weight.shape[2:]),
            self._gram(x_BCHW).unflatten(1, (groups, heads)),
            self.query.weight.view(groups, heads, chs, -1),
        )
        batch, bias_O = x_BCHW.shape[0], self._projection_bias()
        spread, _ = dilate(kernel_BgoImm.flatten(0, 2), bias_O, self.geometry.stride)
        return spread.unflatten(0, (batch, self.geometry.out_chs)), bias_O


class SoftmaxGlobal(_GlobalAttention):
    """P softmax(q^T k / sqrt(c)) v head by head, over all pixels of the image: (B, I, H, W) -> (B, O, H', W').

    The paper's X-volution(SA): true global self-attention in place of PSSA, through torch's
    `scaled_dot_product_attention`. q = Q x + b_q, k = K x, v = V x; no encoding of positions (ours: the paper's summary
    names none). Costs 2 H W E multiply-accumulates per output pixel beside its 1x1 maps, and never becomes a
    convolution: only the norm folds. The embeddings are 1x1 convolutions with the groups of the host. Under a stride Q
    is strided; K and V see full resolution.

    That is quadratic in pixels: in a detector's large pictures it outweighs the network. `kv_size` bounds it (ours): keys and
    values are then those of means over s x s pixels, s the least that leaves at most kv_size x kv_size of them. It costs
    2 kv_size^2 E per output pixel at most; a map that is no larger is attended to as without it.

    Args:
        heads: heads in each group, at least 1; must divide the group's embedding channels.
        q_bias: give the query a bias.
        kv_size: most keys and values along either side of a map; None: each pixel is one.
        rest: as in `AttentionBranch`.
    """

    name = "softmax_global"
    later_options = _GlobalAttention.later_options | {"kv_size"}
    rules = _GlobalAttention.rules | {"kv_size": WHOLE.or_none("a key for each pixel")}

    def __init__(
        self, in_chs: int, out_chs: int, *, q_bias: bool = False, kv_size: int | None = None, **rest: Any
    ) -> None:
        super().__init__(in_chs, out_chs, q_bias=q_bias, kv_size=kv_size, **rest)
        self.kv_size = kv_size

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W')."""
        q_BEHW, seen_BCHW = self.query(x_BCHW), self._pooled(x_BCHW)
        q, k, v = (self._by_head(map_BEHW).mT for map_BEHW in (q_BEHW, self.key(seen_BCHW), self.value(seen_BCHW)))
        z_BhNc = functional.scaled_dot_product_attention(q, k, v)
        return self.project(z_BhNc.mT.flatten(1, 2).unflatten(2, q_BEHW.shape[2:]))

    def _pooled(self, x_BCHW: Tensor) -> Tensor:
        """What keys and values see, pooled before the 1x1 maps, which commute with a mean: (B, I, <= kv_size, <= kv_size)."""
        cell = 1 if self.kv_size is None else -(-max(x_BCHW.shape[2:]) // self.kv_size)
        return x_BCHW if cell == 1 else functional.avg_pool2d(x_BCHW, cell, ceil_mode=True)
