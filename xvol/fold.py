"""The folding algebra: one short pure function for each identity, on pairs (kernel, bias).

A kernel is (O, I / g, k, k), a bias (O,), as `nn.Conv2d` has them. "The paper" is X-volution, arXiv 2106.02253; what is
marked (ours) is our own algebra. Every identity is asserted numerically in `tests/xvol/test_fold.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "Kernel",
    "bias_only",
    "dilate",
    "fold_norm",
    "norm_at_rest",
    "pad_to_centre",
    "product_static_part",
    "sum_parallel",
]

Kernel = tuple[Tensor, Tensor]


def norm_at_rest(norm: nn.BatchNorm2d) -> Kernel:
    """A BatchNorm in eval mode is y = scale * x + shift for each channel: return (scale_O, shift_O).

    Raises:
        ValueError: the norm keeps no running statistics, so it is at rest on no fixed numbers.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a BatchNorm2d with track_running_stats=False cannot be folded: it needs running statistics")
    scale_O = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale_O = scale_O * norm.weight
    shift_O = -norm.running_mean * scale_O
    if norm.bias is not None:
        shift_O = shift_O + norm.bias
    return scale_O.detach(), shift_O.detach()


def fold_norm(kernel: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> Kernel:
    """norm(W * x + b) = (scale W) * x + (scale b + shift): the paper's conv branch, deployed.

    The same holds for the last, linear map of any branch: norm(P z) = (scale P) z + shift (ours), so a BN folds into
    the 1x1 projection P of every attention branch.
    """
    scale_O, shift_O = norm_at_rest(norm)
    folded = kernel * scale_O[:, None, None, None]
    return folded, shift_O if bias is None else bias * scale_O + shift_O


def pad_to_centre(kernel: Tensor, bias: Tensor, size: int) -> Kernel:
    """A k x k convolution is a larger one with a ring of zeros, its padding grown alike (ours).

    Raises:
        ValueError: `size` is smaller than the kernel or of other parity, so that the centres do not meet.
    """
    grown = size - kernel.shape[-1]
    if grown < 0 or grown % 2:
        raise ValueError(f"a {kernel.shape[-1]}x{kernel.shape[-1]} kernel cannot be centred in {size}x{size}")
    return functional.pad(kernel, [grown // 2] * 4), bias


def dilate(kernel: Tensor, bias: Tensor, factor: int) -> Kernel:
    """A convolution of dilation `factor` * d is one of dilation d with zeros between its taps (ours).

    A kernel of size k becomes one of size factor * (k - 1) + 1.
    """
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


def product_static_part(project: Tensor, taps: Tensor, query_bias: Tensor, key: Tensor, groups: int) -> Kernel:
    """What the query bias b contributes to the product form: sum_r P^r (b * DW_{a^r}(K x)), one convolution (ours).

    Tap d of the result is sum_r P^r diag(a^r_d) diag(b) K: the b_q part of W^C_d + P_d diag(Q x_0 + b_q) K. Exact for a
    zero border only, because K is bias-free and the border of K x is then the border of x.

    Args:
        project: P, (O, R * E / g, 1, 1); its inputs are ordered channel by channel, ranks inside.
        taps: a, (R * E, 1, 3, 3), ordered likewise.
        query_bias: b, (E,).
        key: K, (E, I / g, 1, 1).
        groups: g.

    Returns:
        kernel (O, I / g, 3, 3), of the dilation of the shift; bias (O,), zero.
    """
    out_chs, embed_chs = project.shape[0], key.shape[0]
    rank = taps.shape[0] // embed_chs
    project_gocr = project.view(groups, out_chs // groups, embed_chs // groups, rank)
    taps_gcrhw = taps.view(groups, embed_chs // groups, rank, *taps.shape[-2:])
    scaled_gci = (key.flatten(1) * query_bias[:, None]).view(groups, embed_chs // groups, -1)
    kernel_goihw = torch.einsum("gocr,gcrhw,gci->goihw", project_gocr, taps_gcrhw, scaled_gci)
    return kernel_goihw.flatten(0, 1), project.new_zeros(out_chs)
