"""Oracles for tests: slow, written from the formulas, sharing no code with the branches. Never a deploy path.

B = batch, C = channels (I = in, E = embedding, O = out), D = directions, H, W = height, width, g = groups, k = kernel
size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["apply_dynamic_kernel", "product_shifted", "ungroup"]


def product_shifted(
    x_BCHW: Tensor,
    query_EI: Tensor,
    query_bias_E: Tensor | None,
    key_EI: Tensor,
    project_DOE: Tensor,
    offsets: Sequence[tuple[int, int]],
    *,
    stride: int = 1,
    border: str = "zero",
) -> Tensor:
    """sum_d P_d (q * S_d k), by shifted copies: the paper's PSSA as its text has it.

    Args:
        x_BCHW: (B, I, H, W).
        query_EI, query_bias_E, key_EI: the embeddings, dense.
        project_DOE: P_d, dense, one for each offset.
        offsets: (rows, columns) by which each copy of k is shifted.
        stride: keeps every stride-th row and column of the result.
        border: "zero", or "replicate" for the nearest pixel of k.

    Returns:
        (B, O, ceil(H / stride), ceil(W / stride)).
    """
    q_BEHW = torch.einsum("ei,bihw->behw", query_EI, x_BCHW)
    if query_bias_E is not None:
        q_BEHW = q_BEHW + query_bias_E[:, None, None]
    k_BEHW = torch.einsum("ei,bihw->behw", key_EI, x_BCHW)
    height, width = x_BCHW.shape[2:]
    y_BOHW = x_BCHW.new_zeros(x_BCHW.shape[0], project_DOE.shape[1], height, width)
    for project_OE, (down, right) in zip(project_DOE, offsets, strict=True):
        rows, columns = torch.arange(height) + down, torch.arange(width) + right
        inside_H = (rows >= 0) & (rows < height)
        inside_W = (columns >= 0) & (columns < width)
        shifted = k_BEHW[:, :, rows.clamp(0, height - 1)][:, :, :, columns.clamp(0, width - 1)]
        if border == "zero":
            shifted = shifted * (inside_H[:, None] & inside_W[None, :]).to(x_BCHW.dtype)
        y_BOHW = y_BOHW + torch.einsum("oe,behw->bohw", project_OE, q_BEHW * shifted)
    return y_BOHW[:, :, ::stride, ::stride]


def ungroup(weight: Tensor, groups: int) -> Tensor:
    """The dense matrix (O, I) of a grouped 1x1 convolution's weight (O, I / g, 1, 1)."""
    return torch.block_diag(*weight.flatten(1).chunk(groups))


def apply_dynamic_kernel(x_BCHW: Tensor, kernel_BHWOIkk: Tensor, bias_O: Tensor, *, stride: int, groups: int) -> Tensor:
    """Apply to each output pixel its own kernel, centred, with a zero border and dilation 1.

    Args:
        x_BCHW: (B, I, H, W).
        kernel_BHWOIkk: (B, H', W', O, I / g, k, k).
        bias_O: (O,).
        stride, groups: of the convolution.

    Returns:
        (B, O, H', W').
    """
    batch, height, width, out_chs, _, size, _ = kernel_BHWOIkk.shape
    patches = functional.unfold(x_BCHW, size, padding=size // 2, stride=stride)
    patches_BgIkkHW = patches.view(batch, groups, -1, size, size, height, width)
    kernel = kernel_BHWOIkk.unflatten(3, (groups, out_chs // groups))
    y_BgOHW = torch.einsum("bhwgoimn,bgimnhw->bgohw", kernel, patches_BgIkkHW)
    return y_BgOHW.flatten(1, 2) + bias_O[:, None, None]
