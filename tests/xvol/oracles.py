"""Oracles: slow, written from the formulas, sharing no code with the branches.

B = batch, C = channels (I = in, E = embedding, O = out), D = directions, H, W = height, width, g = groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
        shifted = _shift(k_BEHW, down, right, border)
        y_BOHW = y_BOHW + torch.einsum("oe,behw->bohw", project_OE, q_BEHW * shifted)
    return y_BOHW[:, :, ::stride, ::stride]


def inner_shifted(
    x_BCHW: Tensor,
    query_EI: Tensor,
    query_bias_E: Tensor | None,
    key_EI: Tensor,
    value_EI: Tensor,
    taps_hD: Tensor,
    project_OE: Tensor,
    offsets: Sequence[tuple[int, int]],
    *,
    stride: int = 1,
    border: str = "zero",
) -> Tensor:
    """P sum_d a_{d,h} <q, S_d k>_h S_d v / (D c), by shifted copies: the paper's equations, with h heads of c channels.

    Args:
        x_BCHW: (B, I, H, W).
        query_EI, query_bias_E, key_EI, value_EI: the embeddings, dense.
        taps_hD: a, one for each head and offset.
        project_OE: P, dense.
        offsets: (rows, columns) by which each copy of k and v is shifted.
        stride: keeps every stride-th row and column of the result.
        border: "zero", or "replicate" for the nearest pixel of k and v.

    Returns:
        (B, O, ceil(H / stride), ceil(W / stride)).
    """
    heads, count = taps_hD.shape
    q, k, v = (torch.einsum("ei,bihw->behw", weight, x_BCHW) for weight in (query_EI, key_EI, value_EI))
    if query_bias_E is not None:
        q = q + query_bias_E[:, None, None]
    total = torch.zeros_like(v)
    for d, (down, right) in enumerate(offsets):
        products = q * _shift(k, down, right, border)
        values = _shift(v, down, right, border)
        for head, channels in enumerate(torch.arange(q.shape[1]).chunk(heads)):
            weight_BHW = taps_hD[head, d] * products[:, channels].sum(1) / (count * len(channels))
            total[:, channels] += weight_BHW[:, None] * values[:, channels]
    return torch.einsum("oe,behw->bohw", project_OE, total)[:, :, ::stride, ::stride]


def attend_globally(
    x_BCHW: Tensor,
    query_EI: Tensor,
    query_bias_E: Tensor | None,
    key_EI: Tensor,
    value_EI: Tensor,
    project_OE: Tensor,
    *,
    heads: int,
    softmax: bool,
    stride: int = 1,
) -> Tensor:
    """Every pixel's weight on every other, written out: softmax(<q, k> / sqrt(c)), the paper's SA, or <q, k> / (H W).

    Args:
        x_BCHW: (B, I, H, W).
        query_EI, query_bias_E, key_EI, value_EI, project_OE: dense.
        heads: how many equal runs of embedding channels attend each for itself.
        softmax: with it, or the plain inner product.
        stride: keeps every stride-th row and column of the result.

    Returns:
        (B, O, ceil(H / stride), ceil(W / stride)).
    """
    q, k, v = (torch.einsum("ei,bin->ben", weight, x_BCHW.flatten(2)) for weight in (query_EI, key_EI, value_EI))
    if query_bias_E is not None:
        q = q + query_bias_E[:, None]
    attended = torch.zeros_like(q)
    for channels in torch.arange(q.shape[1]).chunk(heads):
        logits_Bqk = torch.einsum("bcq,bck->bqk", q[:, channels], k[:, channels])
        weights_Bqk = (logits_Bqk / len(channels) ** 0.5).softmax(-1) if softmax else logits_Bqk / q.shape[2]
        attended[:, channels] = torch.einsum("bqk,bck->bcq", weights_Bqk, v[:, channels])
    y_BOHW = torch.einsum("oe,ben->bon", project_OE, attended).unflatten(2, x_BCHW.shape[2:])
    return y_BOHW[:, :, ::stride, ::stride]


def _shift(map_BCHW: Tensor, down: int, right: int, border: str) -> Tensor:
    """What lies (down, right) of each pixel; outside of the image zero, or its nearest pixel."""
    height, width = map_BCHW.shape[2:]
    rows, columns = torch.arange(height) + down, torch.arange(width) + right
    shifted = map_BCHW[:, :, rows.clamp(0, height - 1)][:, :, :, columns.clamp(0, width - 1)]
    if border == "replicate":
        return shifted
    inside_H = (rows >= 0) & (rows < height)
    inside_W = (columns >= 0) & (columns < width)
    return shifted * (inside_H[:, None] & inside_W[None, :]).to(map_BCHW.dtype)


def ungroup(weight: Tensor, groups: int) -> Tensor:
    """The dense matrix (O, I) of a grouped 1x1 convolution's weight (O, I / g, 1, 1)."""
    return torch.block_diag(*weight.flatten(1).chunk(groups))
