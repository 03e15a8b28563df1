"""Self-attention over the whole image: without softmax, one convolution for each sample; with it, the paper's SA.

B = batch, C = channels (I = in, E = embedding, O = out), H, W = height, width, N = H * W, g = groups, h = heads,
c = embedding channels of one head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xvol.branches.attention import AttentionBranch, heads_in_group
from xvol.branches.base import WHOLE, Geometry, factory_of
from xvol.fold import dilate


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

    Args:
        heads: heads in each group, at least 1; must divide the group's embedding channels.
        q_bias: give the query a bias.
        rest: as in `AttentionBranch`.
    """

    name = "softmax_global"

    def __init__(self, in_chs: int, out_chs: int, *, q_bias: bool = False, **rest: Any) -> None:
        super().__init__(in_chs, out_chs, q_bias=q_bias, **rest)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W')."""
        q_BEHW = self.query(x_BCHW)
        q, k, v = (self._by_head(map_BEHW).mT for map_BEHW in (q_BEHW, self.key(x_BCHW), self.value(x_BCHW)))
        z_BhNc = functional.scaled_dot_product_attention(q, k, v)
        return self.project(z_BhNc.mT.flatten(1, 2).unflatten(2, q_BEHW.shape[2:]))
