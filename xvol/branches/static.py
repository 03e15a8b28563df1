"""What branches share that are plain convolutions written in another way; their kernels are in `xvol/fold.py`.

B = batch, C = channels (O = out), H, W = height, width.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from xvol.branches.base import Geometry
from xvol.fold import Kernel, dilate

__all__ = ["average", "static_dynamic_kernel"]


def average(x_BCHW: Tensor, size: int, *, stride: int, dilation: int, padding: int = 0) -> Tensor:
    """The mean of each channel over a size x size window, border zeros counted: (B, C, H, W) -> (B, C, H', W')."""
    if dilation == 1:
        return functional.avg_pool2d(x_BCHW, size, stride, padding, count_include_pad=True)
    chs = x_BCHW.shape[1]
    mean = x_BCHW.new_full((chs, 1, size, size), size**-2)
    return functional.conv2d(x_BCHW, mean, stride=stride, padding=padding, dilation=dilation, groups=chs)


def static_dynamic_kernel(kernel: Kernel, geometry: Geometry, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """A static kernel as a dynamic one, which is the same at each pixel; its dilation is written out as zeros."""
    kernel_OIkk, bias_O = dilate(*kernel, geometry.dilation)
    height, width = ((size - 1) // geometry.stride + 1 for size in x_BCHW.shape[2:])
    return kernel_OIkk.expand(x_BCHW.shape[0], height, width, -1, -1, -1, -1), bias_O
