"""Deformable convolution (rival): a window whose taps each pixel moves and weighs.

B = batch, C = channels (I = in, O = out), H, W = height, width, k = kernel size, T = taps k^2.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from xvol.branches.base import Host, factory_of
from xvol.branches.rivals import RivalBranch


class DeformConv(RivalBranch):
    """y(x_0) = sum_t m_t(x_0) W_t x(x_0 + t + d_t(x_0)), d = D x, m = sigmoid(M x): (B, I, H, W) -> (B, O, H', W').

    Deformable ConvNets v2, arXiv 1811.11168, with one group of offsets: x between pixels is bilinear, and 0 outside of the image. D and M
    are convolutions of the host's window, with bias, and start at 0, so the branch starts as half a convolution. T I O + 3 T (T I + 1)
    weights. Written over `grid_sample`, so that it runs, exports and compiles wherever torch does; torchvision's layer computes the same.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; no groups.
    """

    name = "deform_conv"

    def __init__(self, in_chs: int, out_chs: int, **host: Unpack[Host]) -> None:
        super().__init__(in_chs, out_chs, **host)
        factory, size = factory_of(host), self.geometry.kernel_size
        self.move = self._centred(in_chs, 2 * size**2, size, bias=True, **factory)  # down and right, of tap after tap
        self.weigh = self._centred(in_chs, size**2, size, bias=True, **factory)
        self.mix = nn.Conv2d(in_chs * size**2, out_chs, 1, bias=False, **factory)  # a k x k kernel, flattened
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernel Kaiming normal over the fan out, as `conv`; offsets and weights of taps start at 0."""
        taps = self.geometry.kernel_size**2
        nn.init.normal_(self.mix.weight, std=(2 / (self.geometry.out_chs * taps)) ** 0.5)
        for conv in (self.move, self.weigh):
            assert conv.bias is not None
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Sample and convolve: (B, I, H, W) -> (B, O, H', W'). Positions are computed in float32 at least."""
        wide = torch.promote_types(x_BCHW.dtype, torch.float32)
        grid_BTHW2 = self._grid(self.move(x_BCHW).to(wide), *x_BCHW.shape[2:])
        taps_BCTHW = functional.grid_sample(
            x_BCHW.to(wide), grid_BTHW2.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=False
        ).unflatten(2, (self.geometry.kernel_size**2, -1))
        weight_BTHW = self.weigh(x_BCHW).sigmoid()
        weighed_BCTHW = taps_BCTHW.to(weight_BTHW.dtype) * weight_BTHW[:, None]
        return self._finish(self.mix(weighed_BCTHW.flatten(1, 2)))

    def _grid(self, moved_BDHW: Tensor, height: int, width: int) -> Tensor:
        """Where each tap of each output pixel looks, (B, T, H', W', 2), right and down, as `grid_sample` counts: -1 to 1 over the image."""
        geo = self.geometry
        like: dict[str, Any] = {"device": moved_BDHW.device, "dtype": moved_BDHW.dtype}
        moved_BTzHW = moved_BDHW.unflatten(1, (-1, 2))
        reach = torch.arange(geo.kernel_size, **like) * geo.dilation - geo.same_padding
        down_H, right_W = (torch.arange(edge, **like) * geo.stride for edge in moved_BDHW.shape[2:])
        down_BTHW = moved_BTzHW[:, :, 0] + reach.repeat_interleave(geo.kernel_size)[:, None, None] + down_H[:, None]
        right_BTHW = moved_BTzHW[:, :, 1] + reach.repeat(geo.kernel_size)[:, None, None] + right_W
        places = ((2 * right_BTHW + 1) / width - 1, (2 * down_BTHW + 1) / height - 1)
        return torch.stack(places, -1)

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """Four pixels and a weight for each channel of each tap."""
        return 5 * self.mix.in_channels * out_size[0] * out_size[1]
