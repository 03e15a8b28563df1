"""The norms that fold, and the folding algebra: one short pure function for each identity, on pairs (kernel, bias).

A kernel is (O, I / g, k, k), a bias (O,), as `nn.Conv2d` has them. "The paper" is X-volution, arXiv 2106.02253; what is
marked (ours) is our own algebra. Every identity is asserted numerically in `tests/xvol/test_fold.py`.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

Kernel = tuple[Tensor, Tensor]
NORMS = ("batch", "none")


class ScaleShift2d(nn.Module):
    """weight_c x_c + bias_c, in training as at rest: (B, C, H, W) -> (B, C, H, W).

    What is left of a BatchNorm2d without its statistics. It keeps the weight that a conversion sets to 0 to preserve a
    trained model's function, and that `BlockSpec.gamma` sets.
    """

    def __init__(
        self, channels: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Scale and shift, in the dtype of the input as BatchNorm2d does."""
        weight_C11, bias_C11 = self.weight[:, None, None], self.bias[:, None, None]
        return x_BCHW * weight_C11.to(x_BCHW.dtype) + bias_C11.to(x_BCHW.dtype)

    def extra_repr(self) -> str:
        """The channels."""
        return str(self.weight.shape[0])


class NoNorm2d(nn.Module):
    """x itself, (B, C, H, W), behind a convolution whose norm stands behind the block, or that has none."""

    one: Tensor

    def __init__(
        self, channels: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(channels, device=device, dtype=dtype), persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Hand it on."""
        return x_BCHW


Norm: TypeAlias = nn.BatchNorm2d | ScaleShift2d | NoNorm2d


def new_norm(
    kind: str,
    channels: int,
    *,
    eps: float = 1e-5,
    momentum: float | None = 0.1,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Norm:
    """A fresh norm: "batch" for a BatchNorm2d with `eps` and `momentum`, "none" for a `ScaleShift2d`."""
    if kind == "none":
        return ScaleShift2d(channels, device=device, dtype=dtype)
    return nn.BatchNorm2d(channels, eps=eps, momentum=momentum, device=device, dtype=dtype)


def norm_at_rest(norm: Norm) -> Kernel:
    """A BatchNorm in eval mode, as a `ScaleShift2d` in any, is y = scale * x + shift for each channel: (scale_O, shift_O).

    ValueError where the norm keeps no running statistics, so that it is at rest on no fixed numbers.
    """
    if isinstance(norm, NoNorm2d):
        return norm.one.clone(), torch.zeros_like(norm.one)
    if isinstance(norm, ScaleShift2d):
        return norm.weight.detach().clone(), norm.bias.detach().clone()
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a BatchNorm2d with track_running_stats=False cannot be folded: it needs running statistics")
    scale_O = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale_O = scale_O * norm.weight
    shift_O = -norm.running_mean * scale_O
    if norm.bias is not None:
        shift_O = shift_O + norm.bias
    return scale_O.detach(), shift_O.detach()


def fold_norm(kernel: Tensor, bias: Tensor | None, norm: Norm) -> Kernel:
    """norm(W * x + b) = (scale W) * x + (scale b + shift): the paper's conv branch, deployed.

    The same holds for the last, linear map of any branch: norm(P z) = (scale P) z + shift (ours), so a BN folds into
    the projection P of every attention branch, of whatever size.
    """
    scale_O, shift_O = norm_at_rest(norm)
    folded = kernel * scale_O[:, None, None, None]
    return folded, shift_O if bias is None else bias * scale_O + shift_O


def pad_to_centre(kernel: Tensor, bias: Tensor, size: int) -> Kernel:
    """A k x k convolution is a larger one, of the same parity, with a ring of zeros, its padding grown alike (ours)."""
    grown = size - kernel.shape[-1]
    if grown < 0 or grown % 2:
        raise ValueError(f"a {kernel.shape[-1]}x{kernel.shape[-1]} kernel cannot be centred in {size}x{size}")
    return functional.pad(kernel, [grown // 2] * 4), bias


def dilate(kernel: Tensor, bias: Tensor, factor: int) -> Kernel:
    """A convolution of dilation `factor` * d is one of dilation d with zeros between its taps (ours), of size factor * (k - 1) + 1."""
    size = factor * (kernel.shape[-1] - 1) + 1
    spread = kernel.new_zeros(*kernel.shape[:2], size, size)
    spread[:, :, ::factor, ::factor] = kernel
    return spread, bias


def sum_parallel(*kernels: Kernel) -> Kernel:
    """Convolutions of equal stride, dilation and groups on one input sum to one convolution.

    The paper's deploy form, its static part: W^C + W^A where both are fixed. Smaller kernels are centred in the
    largest.
    """
    size = max(kernel.shape[-1] for kernel, _ in kernels)
    grown = [pad_to_centre(kernel, bias, size) for kernel, bias in kernels]
    return torch.stack([kernel for kernel, _ in grown]).sum(0), torch.stack([bias for _, bias in grown]).sum(0)


def bias_only(bias: Tensor, in_chs_per_group: int) -> Kernel:
    """A constant for each channel is a 1x1 convolution of zeros with that bias."""
    return bias.new_zeros(bias.shape[0], in_chs_per_group, 1, 1), bias


def chain_pointwise(first: Tensor, last: Tensor, groups: int) -> Kernel:
    """A k x k convolution W_1 and then a 1x1 one W_2 are one k x k convolution: sum_m W_2[o, m] W_1[m, i] (ours).

    Without biases: `first` (M, I / g, k, k), `last` (O, M / g, 1, 1); the kernel (O, I / g, k, k) has a bias of zeros.
    """
    kernel = torch.einsum("gom,gmihw->goihw", _grouped(last.flatten(1), groups), _grouped(first, groups))
    return kernel.flatten(0, 1), last.new_zeros(last.shape[0])


def widen_pointwise(first: Kernel, last: Tensor, groups: int) -> Kernel:
    """A 1x1 convolution with bias and then a k x k one are one k x k convolution: the identity III of DiverseBranch.

    Exact where the border of the map between them is its bias, as of a border of zeros pushed through the first one
    (Diverse Branch Block, arXiv 2103.13425, whose blocks pad in that way). `first` is ((M, I / g, 1, 1), (M,)), `last`
    (O, M / g, k, k), without bias.
    """
    weight, bias_M = first
    grouped = _grouped(last, groups)
    kernel = torch.einsum("gmi,gomhw->goihw", _grouped(weight.flatten(1), groups), grouped)
    bias = torch.einsum("gm,gomhw->go", _grouped(bias_M, groups), grouped)
    return kernel.flatten(0, 1), bias.flatten()


def average_kernel(chs: int, groups: int, size: int, like: Tensor) -> Kernel:
    """An average pool is a convolution: the identity V of DiverseBranch (arXiv 2103.13425); of size 1 the identity map.

    The mean of each channel over a size x size window, border zeros counted: kernel (C, C / g, size, size), bias zero.
    """
    own = torch.eye(chs // groups, dtype=like.dtype, device=like.device).repeat(groups, 1)
    return (own / size**2)[:, :, None, None].expand(-1, -1, size, size).contiguous(), own.new_zeros(chs)


def compose_taps(taps: Tensor, outer: int, inner: int) -> Tensor:
    """Taps t of one convolution after taps d of another lie at outer * t + inner * d of one kernel (ours).

    Args:
        taps: (..., m, m, k, k): what tap t of the later convolution makes of tap d of the earlier one; m, k odd.
        outer: pixels of the input between taps of the later one: its dilation times the stride of the earlier one.
        inner: dilation of the earlier one.

    Returns:
        (..., K, K), of dilation 1, K = outer (m - 1) + inner (k - 1) + 1. What falls on one tap is summed.
    """
    later, earlier = taps.shape[-3], taps.shape[-1]
    span = inner * (earlier - 1) + 1
    size = outer * (later - 1) + span
    composed = taps.new_zeros(*taps.shape[:-4], size, size)
    for row in range(later):
        for column in range(later):
            top, left = outer * row, outer * column
            composed[..., top : top + span : inner, left : left + span : inner] += taps[..., row, column, :, :]
    return composed


def product_static_part(
    project: Tensor, taps: Tensor, query_bias: Tensor, key: Tensor, groups: int, *, stride: int = 1, shift: int = 1
) -> Kernel:
    """What the query bias b contributes to the product form: sum_r P^r (b * DW_{a^r}(K x)), one convolution (ours).

    Tap d of the result is sum_r P^r diag(a^r_d) diag(b) K: the b_q part of W^C_d + P_d diag(Q x_0 + b_q) K. Exact for a
    zero border only, because K is bias-free and the border of K x is then the border of x. A larger P reaches over the
    output pixels around: exact where the products it sees outside of the image are those of an image grown by zeros.

    Args:
        project: P, (O, R * E / g, m, m); its inputs are ordered channel by channel, ranks inside.
        taps: a, (R * E, 1, 3, 3), ordered likewise; query_bias: b, (E,); key: K, (E, I / g, 1, 1), all in g groups.
        stride, shift: pixels of the input between the taps of P, and between the taps a.

    Returns:
        kernel (O, I / g, k, k), of dilation 1, k = stride (m - 1) + 2 shift + 1; bias (O,), zero.
    """
    out_chs, embed_chs = project.shape[0], key.shape[0]
    rank = taps.shape[0] // embed_chs
    project_gocrtu = _grouped(project, groups).unflatten(2, (embed_chs // groups, rank))
    taps_gcrhw = taps.view(groups, embed_chs // groups, rank, *taps.shape[-2:])
    scaled_gci = (key.flatten(1) * query_bias[:, None]).view(groups, embed_chs // groups, -1)
    each_goituhw = torch.einsum("gocrtu,gcrhw,gci->goituhw", project_gocrtu, taps_gcrhw, scaled_gci)
    return compose_taps(each_goituhw.flatten(0, 1), stride, shift), project.new_zeros(out_chs)


def mixed_kernel(kernel_BHWZIkk: Tensor, project: Tensor, groups: int, stride: int) -> Tensor:
    """The dynamic kernel of P z from that of z: P sums over the output pixels around, zeros outside of the map (ours).

    Args:
        kernel_BHWZIkk: (B, H', W', Z, I / g, k, k), of dilation 1.
        project: P, (O, Z / g, m, m), m odd, in g groups.
        stride: of z, in pixels of the input.

    Returns:
        (B, H', W', O, I / g, k', k') with k' = k + stride (m - 1).
    """
    height, width, size, m = *kernel_BHWZIkk.shape[1:3], kernel_BHWZIkk.shape[-1], project.shape[-1]
    grouped = kernel_BHWZIkk.unflatten(3, (groups, -1))
    project_gozmm = project.unflatten(0, (groups, -1))
    grown = size + stride * (m - 1)
    total = kernel_BHWZIkk.new_zeros(
        *kernel_BHWZIkk.shape[:3], project.shape[0], *kernel_BHWZIkk.shape[4:5], grown, grown
    )
    for row in range(m):
        for column in range(m):
            down, right = row - m // 2, column - m // 2
            there = torch.einsum("goz,bhwgzipq->bhwgoipq", project_gozmm[..., row, column], grouped).flatten(3, 4)
            here_H = slice(max(0, -down), max(0, min(height, height - down)))
            here_W = slice(max(0, -right), max(0, min(width, width - right)))
            seen = there[:, max(0, down) : max(0, height + down), max(0, right) : max(0, width + right)]
            top, left = stride * row, stride * column
            total[:, here_H, here_W, :, :, top : top + size, left : left + size] += seen
    return total


def _grouped(weight: Tensor, groups: int) -> Tensor:
    return weight.unflatten(0, (groups, -1))
