"""What rank-1 PSSA, P (q * DW(k)), is made of, taken apart: a product without neighbours, neighbours without a product, a plain gate.

Controls of one skeleton, that of StarNet's block, MambaOut's gated convolution and Conv2Former: what is the attention more than a gate?

B = batch, C = channels (I = in, E = embedding, O = out), H, W = height, width, g = groups, k = kernel size, m = size of the last map.
"""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from xvol.allowed import ODD, RATIO
from xvol.branches.attention import AttentionBranch, embedding_chs
from xvol.branches.base import NORM, Host, factory_of
from xvol.branches.conv import StaticBranch
from xvol.fold import dilate, mixed_kernel

KERNEL = {"kernel": ODD.or_none("the host's")}


class _Gate(AttentionBranch):
    """P (gate(q) * s), q = Q x and s a linear map of x, of which each subclass has its own."""

    has_dynamic_kernel = True

    def _gate(self, q_BEHW: Tensor) -> Tensor:
        return q_BEHW

    def _other(self, x_BCHW: Tensor) -> Tensor:
        return self.key(x_BCHW)

    def _taps(self) -> Tensor:
        """The depthwise kernel (E, k, k) that is a part of s."""
        return self.key.weight.new_ones(self.embed_chs, 1, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Gate: (B, I, H, W) -> (B, O, H', W')."""
        return self.project(self._gate(self.query(x_BCHW)) * self._other(x_BCHW))

    def dynamic_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """P diag(gate(Q x_0)) diag(a_t) K at tap t (ours); a dilation is written out as zeros."""
        geo, gate_BEHW, taps_Ekk = self.geometry, self._gate(self.query(x_BCHW)), self._taps()
        spread, _ = dilate(taps_Ekk[:, None], taps_Ekk, geo.dilation)
        kernel_BHWEIkk = torch.einsum("behw,emn,ei->bhweimn", gate_BEHW, spread[:, 0], self.key.weight.flatten(1))
        return mixed_kernel(kernel_BHWEIkk, self.project.weight, geo.groups, geo.stride), self._projection_bias()

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """One product for each embedding."""
        return self.embed_chs * out_size[0] * out_size[1]


class Star(_Gate):
    """P (q * k), q = Q x, k = K x: (B, I, H, W) -> (B, O, H', W'): PSSA's product without its neighbours.

    The star operation of Rewrite the Stars, arXiv 2403.19967, between the 1x1 maps of an X-volution block. 2 I E / g + E O / g
    weights, and one multiply-accumulate more for each embedding than those at each output pixel: `pssa` of rank 1 without its taps. The
    embeddings are 1x1 convolutions with the groups of the host, and strided as it is.

    Args:
        rest: as in `AttentionBranch`.
    """

    name = "star"

    def __init__(self, in_chs: int, out_chs: int, **rest: Any) -> None:
        super().__init__(in_chs, out_chs, **rest)
        factory = factory_of(rest)
        self.query = self._embed(self.embed_chs, stride=self.geometry.stride, **factory)
        self.key = self._embed(self.embed_chs, stride=self.geometry.stride, **factory)
        self.project = self._projection(self.embed_chs, **factory)
        self.reset_parameters()


class GateOnly(Star):
    """P (sigmoid(q) * k), q = Q x, k = K x: (B, I, H, W) -> (B, O, H', W'): a gated linear unit of each pixel.

    Language Modeling with Gated Convolutional Networks, arXiv 1612.08083, with windows of 1x1. Weights and costs are those of `star`
    (a sigmoid counts nothing): what differs is that the gate is bounded, so no features are multiplied with each other.

    Args:
        rest: as in `AttentionBranch`.
    """

    name = "gate_only"

    def _gate(self, q_BEHW: Tensor) -> Tensor:
        return q_BEHW.sigmoid()


class GatedDW(_Gate):
    """P (q * DW(k)), q = Q x, k = K x: (B, I, H, W) -> (B, O, H', W'), DW a k x k depthwise convolution with free taps.

    The gated convolution of MambaOut (arXiv 2405.07992) and the convolutional modulation of Conv2Former (arXiv 2211.11943), without
    their activations and norms, between the 1x1 maps of an X-volution block. With a 3x3 window it is `pssa` of rank 1 with `directions=9`;
    with its centre tap at 0 the paper's, of 8 directions. 2 I E / g + E k^2 + E O / g weights. DW has the host's stride and
    dilation, K sees full resolution, and the border is that of k.

    Args:
        kernel: size of the depthwise window, odd; None takes the host's.
        rest: as in `AttentionBranch`.
    """

    name = "gated_dw"
    rules = AttentionBranch.rules | KERNEL

    def __init__(self, in_chs: int, out_chs: int, *, kernel: int | None = None, **rest: Any) -> None:
        super().__init__(in_chs, out_chs, kernel=kernel, **rest)
        factory, size = factory_of(rest), kernel or self.geometry.kernel_size
        self.query = self._embed(self.embed_chs, stride=self.geometry.stride, **factory)
        self.key = self._embed(self.embed_chs, **factory)
        self.depthwise = self._centred(self.embed_chs, self.embed_chs, size, groups=self.embed_chs, **factory)
        self.project = self._projection(self.embed_chs, **factory)
        self.reset_parameters()

    def _other(self, x_BCHW: Tensor) -> Tensor:
        return self.depthwise(self.key(x_BCHW))

    def _taps(self) -> Tensor:
        return self.depthwise.weight[:, 0]


class DWOnly(StaticBranch):
    """P DW(k), k = K x: (B, I, H, W) -> (B, O, H', W'): PSSA's neighbours without its product, linear in x.

    An inverted bottleneck without activation, which folds into one convolution of the host's. I E / g + E k^2 + E O / g weights:
    an `embed_ratio` 1.5 times that of `pssa` has about as many. DW has the host's stride and dilation, K sees full resolution.

    Args:
        kernel: size of the depthwise window, odd; None takes the host's.
        embed_ratio: E / out_chs, above 0; E is rounded to whole channels in each group, at least one.
        norm: after the branch in a block: "batch", or "none" for a scale and a shift of each channel.
    """

    name = "dw_only"
    rules: ClassVar = {"embed_ratio": RATIO, "norm": NORM, **KERNEL}

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        kernel: int | None = None,
        embed_ratio: float = 1.0,
        norm: str = "batch",
        **host: Unpack[Host],
    ) -> None:
        super().__init__(in_chs, out_chs, kernel=kernel, embed_ratio=embed_ratio, norm=norm, **host)
        factory, geo = factory_of(host), self.geometry
        embed_chs = embedding_chs(embed_ratio, geo)
        point: dict[str, Any] = {"groups": geo.groups, "bias": False, **factory}
        self.key = nn.Conv2d(in_chs, embed_chs, 1, **point)
        self.depthwise = self._centred(embed_chs, embed_chs, kernel or geo.kernel_size, groups=embed_chs, **factory)
        self.project = nn.Conv2d(embed_chs, out_chs, 1, **point)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights normal, each map preserving the variance of its input."""
        for conv in (self.key, self.depthwise, self.project):
            nn.init.normal_(conv.weight, std=conv.weight[0].numel() ** -0.5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Mix: (B, I, H, W) -> (B, O, H', W')."""
        return self.project(self.depthwise(self.key(x_BCHW)))

    def _kernel(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        groups = self.geometry.groups
        kernel_goikk = torch.einsum(
            "goe,gemn,gei->goimn",
            self.project.weight.flatten(1).unflatten(0, (groups, -1)),
            self.depthwise.weight[:, 0].unflatten(0, (groups, -1)),
            self.key.weight.flatten(1).unflatten(0, (groups, -1)),
        )
        return kernel_goikk.flatten(0, 1), None
