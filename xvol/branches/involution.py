"""Involution: a kernel for each pixel, made from that pixel and shared by groups of channels.

B = batch, C = channels, H, W = height, width, K = window size, G = groups of channels that share a kernel.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from xvol.branches.base import Host, factory_of
from xvol.branches.options import check_odd, check_whole
from xvol.branches.rivals import RivalBranch
from xvol.fold import dilate

__all__ = ["Involution"]


class Involution(RivalBranch):
    """y_c(x_0) = sum_t H_{g(c), t}(x_0) x_c(x_0 + t), H(x_0) = W_1 relu(BN(W_0 x_0)): (B, C, H, W) -> (B, C, H', W').

    Involution: Inverting the Inherence of Convolution for Visual Recognition, arXiv 2103.06255: a window spread over
    space as the pixel says, the same for all channels of a group. Under a stride W_0 takes the mean of each stride x
    stride cell, as in the authors' code. The window has the host's dilation and a zero border.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; as many channels out as in. W_0 and W_1 are
            narrow and mix all channels, whatever the host's groups.
        window: K, odd.
        reduction: channels over those of W_0's output, at least 1.
        group_chs: channels that share a kernel; where it does not divide them, their greatest common divisor.
    """

    has_dynamic_kernel = True
    name = "involution"
    keeps_chs = True
    any_groups = True

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        window: int = 7,
        reduction: int = 4,
        group_chs: int = 16,
        **host: Unpack[Host],
    ) -> None:
        super().__init__(
            in_chs,
            out_chs,
            window=window,
            reduction=reduction,
            group_chs=group_chs,
            **host,
        )
        factory = factory_of(host)
        self.window = window
        self.sharing = out_chs // math.gcd(out_chs, group_chs)
        narrow = max(1, in_chs // reduction)
        self.reduce = nn.Conv2d(in_chs, narrow, 1, bias=False, **factory)
        self.norm = nn.BatchNorm2d(narrow, **factory)
        self.span = nn.Conv2d(narrow, self.sharing * window**2, 1, **factory)
        self.reset_parameters()

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Refuse what the class docstring does not allow."""
        check_odd("involution", options, "window")
        check_whole("involution", options, "reduction", "group_chs")

    def reset_parameters(self) -> None:
        """Draw both maps normal, each preserving the variance of its input; the bias starts at zero, the norm as new."""
        for conv in (self.reduce, self.span):
            nn.init.normal_(conv.weight, std=conv.weight.shape[1] ** -0.5)
        assert self.span.bias is not None
        nn.init.zeros_(self.span.bias)
        self.norm.reset_parameters()

    def _kernels(self, x_BCHW: Tensor) -> Tensor:
        """H(x_0): (B, G, K * K, H', W')."""
        if self.geometry.stride > 1:
            x_BCHW = functional.avg_pool2d(x_BCHW, self.geometry.stride, ceil_mode=True)
        return self.span(functional.relu(self.norm(self.reduce(x_BCHW)))).unflatten(1, (self.sharing, -1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Apply to each pixel its kernel: (B, C, H, W) -> (B, C, H', W')."""
        geo = self.geometry
        kernels_BGtHW = self._kernels(x_BCHW)
        padding = geo.dilation * (self.window - 1) // 2
        patches = functional.unfold(x_BCHW.to(kernels_BGtHW.dtype), self.window, geo.dilation, padding, geo.stride)
        patches_BGctHW = patches.view(patches.shape[0], self.sharing, -1, self.window**2, *kernels_BGtHW.shape[3:])
        return self._finish((kernels_BGtHW[:, :, None] * patches_BGctHW).sum(3).flatten(1, 2))

    def dynamic_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """diag(H_{g(c), t}(x_0)) at tap t, within the host's groups; the dilation is written out as zeros."""
        geo = self.geometry
        kernels_BGtHW = self._kernels(x_BCHW)
        batch, _, _, height, width = kernels_BGtHW.shape
        each_BHWCt = kernels_BGtHW.repeat_interleave(geo.out_chs // self.sharing, dim=1).permute(0, 3, 4, 1, 2)
        if self.gain is not None:
            each_BHWCt = each_BHWCt * self.gain[:, None]
        own_CI = torch.eye(geo.in_chs // geo.groups).to(each_BHWCt).repeat(geo.groups, 1)
        kernel = torch.einsum("bhwct,ci->bhwcit", each_BHWCt, own_CI).unflatten(-1, (self.window, self.window))
        bias_O = each_BHWCt.new_zeros(geo.out_chs) if self.offset is None else self.offset
        spread, _ = dilate(kernel.flatten(0, 3), bias_O, geo.dilation)
        return spread.unflatten(0, (batch, height, width, geo.out_chs)), bias_O

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """One product for each channel and tap."""
        return self.geometry.out_chs * self.window**2 * out_size[0] * out_size[1]
