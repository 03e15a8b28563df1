"""Kernels of branches, or of parts of branches, that are plain convolutions written in another way.

B = batch, C = channels (I = in, M = middle, O = out), H, W = height, width, g = groups, k = kernel size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from xvol.branches.base import Geometry
from xvol.fold import Kernel, dilate

__all__ = ["average", "average_kernel", "chain_pointwise", "static_dynamic_kernel", "widen_pointwise"]


def chain_pointwise(first: Tensor, last: Tensor, groups: int) -> Kernel:
    """A k x k convolution W_1 and then a 1x1 one W_2 are one k x k convolution: sum_m W_2[o, m] W_1[m, i] (ours).

    Args:
        first: W_1, (M, I / g, k, k), without bias.
        last: W_2, (O, M / g, 1, 1), without bias.
        groups: g, of both.

    Returns:
        kernel (O, I / g, k, k) and bias (O,), zero.
    """
    kernel = torch.einsum("gom,gmihw->goihw", last.flatten(1).unflatten(0, (groups, -1)), _grouped(first, groups))
    return kernel.flatten(0, 1), last.new_zeros(last.shape[0])


def widen_pointwise(first: Kernel, last: Tensor, groups: int) -> Kernel:
    """A 1x1 convolution with bias and then a k x k one are one k x k convolution: the identity III of DiverseBranch.

    Exact where the border of the map between them is its bias, as of a border of zeros pushed through the first one
    (Diverse Branch Block, arXiv 2103.13425, whose blocks pad in that way).

    Args:
        first: ((M, I / g, 1, 1), (M,)).
        last: (O, M / g, k, k), without bias.
        groups: g, of both.

    Returns:
        kernel (O, I / g, k, k), bias (O,).
    """
    weight, bias_M = first
    grouped = _grouped(last, groups)
    kernel = torch.einsum("gmi,gomhw->goihw", weight.flatten(1).unflatten(0, (groups, -1)), grouped)
    bias = torch.einsum("gm,gomhw->go", bias_M.unflatten(0, (groups, -1)), grouped)
    return kernel.flatten(0, 1), bias.flatten()


def average(x_BCHW: Tensor, size: int, *, stride: int, dilation: int, padding: int = 0) -> Tensor:
    """The mean of each channel over a size x size window, border zeros counted: (B, C, H, W) -> (B, C, H', W')."""
    if dilation == 1:
        return functional.avg_pool2d(x_BCHW, size, stride, padding, count_include_pad=True)
    chs = x_BCHW.shape[1]
    mean = x_BCHW.new_full((chs, 1, size, size), size**-2)
    return functional.conv2d(x_BCHW, mean, stride=stride, padding=padding, dilation=dilation, groups=chs)


def average_kernel(chs: int, groups: int, size: int, like: Tensor) -> Kernel:
    """The mean of each channel over a size x size window, border zeros counted; of size 1 the identity.

    Returns:
        kernel (C, C / g, size, size) and bias (C,), zero, of the dtype and device of `like`.
    """
    own = torch.eye(chs // groups, dtype=like.dtype, device=like.device).repeat(groups, 1)
    return (own / size**2)[:, :, None, None].expand(-1, -1, size, size).contiguous(), own.new_zeros(chs)


def static_dynamic_kernel(kernel: Kernel, geometry: Geometry, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """A static kernel as a dynamic one, which is the same at each pixel; its dilation is written out as zeros."""
    kernel_OIkk, bias_O = dilate(*kernel, geometry.dilation)
    height, width = ((size - 1) // geometry.stride + 1 for size in x_BCHW.shape[2:])
    return kernel_OIkk.expand(x_BCHW.shape[0], height, width, -1, -1, -1, -1), bias_O


def _grouped(weight: Tensor, groups: int) -> Tensor:
    return weight.unflatten(0, (groups, -1))
