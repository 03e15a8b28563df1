"""The Triton kernels themselves; imported by `xvol/triton_kernels.py` alone, and only where Triton is installed.

One program stands for one channel of one image and a block of its pixels. All tensors are contiguous: q and its gradient
(B, E, H', W'), k and its gradient (B, E, H, W), the window (E * R, 9), the result and its gradient (B, E * R, H', W').
Sums are kept in float32, in float64 for float64.
"""
# mypy: ignore-errors
# Annotations stay values here, for Triton reads them: no `from __future__ import annotations`.

import os

import triton
import triton.language as tl

_SIZES = ("EMBED", "RANK", "HEIGHT", "WIDTH", "OUT_HEIGHT", "OUT_WIDTH", "STRIDE", "SHIFT", "PADDING")


# Pixels of one program, and warps. The interpreter has nothing to time by and takes the first.
_TRIED = ((128, 2), (256, 4), (512, 4), (1024, 8))


def _tuned(kernel):
    tried = _TRIED[:1] if os.environ.get("TRITON_INTERPRET") == "1" else _TRIED
    configs = [triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in tried]
    return triton.autotune(configs, key=[*_SIZES])(kernel)


@triton.jit
def _forward(
    q, k, window, y,
    EMBED: tl.constexpr, RANK: tl.constexpr, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH,
    STRIDE: tl.constexpr, SHIFT: tl.constexpr, PADDING: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(0)  # image * EMBED * RANK + channel
    channel = plane % (EMBED * RANK)
    source = plane // RANK  # image * EMBED + embedding channel
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < OUT_HEIGHT * OUT_WIDTH
    top, left = pixel // OUT_WIDTH * STRIDE - PADDING, pixel % OUT_WIDTH * STRIDE - PADDING
    q_value = tl.load(q + source.to(tl.int64) * OUT_HEIGHT * OUT_WIDTH + pixel, mask=inside, other=0.0)
    wide: tl.constexpr = tl.float64 if q.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros((BLOCK,), dtype=wide)
    for tap in tl.static_range(9):
        row, column = top + tap // 3 * SHIFT, left + tap % 3 * SHIFT
        there = inside & (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
        value = tl.load(k + source.to(tl.int64) * HEIGHT * WIDTH + row * WIDTH + column, mask=there, other=0.0)
        total += value.to(wide) * tl.load(window + channel * 9 + tap).to(wide)
    tl.store(
        y + plane.to(tl.int64) * OUT_HEIGHT * OUT_WIDTH + pixel,
        (q_value.to(wide) * total).to(y.dtype.element_ty),
        mask=inside,
    )


@triton.jit
def _q_grad(
    grad, k, window, q_grad,
    EMBED: tl.constexpr, RANK: tl.constexpr, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH,
    STRIDE: tl.constexpr, SHIFT: tl.constexpr, PADDING: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """sum_r grad * DW(k)."""
    plane = tl.program_id(0)  # image * EMBED + embedding channel
    channel = plane % EMBED
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < OUT_HEIGHT * OUT_WIDTH
    top, left = pixel // OUT_WIDTH * STRIDE - PADDING, pixel % OUT_WIDTH * STRIDE - PADDING
    wide: tl.constexpr = tl.float64 if q_grad.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros((BLOCK,), dtype=wide)
    for rank in tl.static_range(RANK):
        neighbours = tl.zeros((BLOCK,), dtype=wide)
        for tap in tl.static_range(9):
            row, column = top + tap // 3 * SHIFT, left + tap % 3 * SHIFT
            there = inside & (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
            value = tl.load(k + plane.to(tl.int64) * HEIGHT * WIDTH + row * WIDTH + column, mask=there, other=0.0)
            neighbours += value.to(wide) * tl.load(window + (channel * RANK + rank) * 9 + tap).to(wide)
        place = (plane.to(tl.int64) * RANK + rank) * OUT_HEIGHT * OUT_WIDTH + pixel
        total += tl.load(grad + place, mask=inside, other=0.0).to(wide) * neighbours
    place = plane.to(tl.int64) * OUT_HEIGHT * OUT_WIDTH + pixel
    tl.store(q_grad + place, total.to(q_grad.dtype.element_ty), mask=inside)


@triton.jit
def _k_grad(
    grad, q, window, k_grad,
    EMBED: tl.constexpr, RANK: tl.constexpr, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH,
    STRIDE: tl.constexpr, SHIFT: tl.constexpr, PADDING: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """sum_r DW^T(grad * q): each pixel of k gathers from the pixels of q whose window it is in."""
    plane = tl.program_id(0)  # image * EMBED + embedding channel
    channel = plane % EMBED
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < HEIGHT * WIDTH
    bottom, right = pixel // WIDTH + PADDING, pixel % WIDTH + PADDING
    wide: tl.constexpr = tl.float64 if k_grad.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros((BLOCK,), dtype=wide)
    for tap in tl.static_range(9):
        far_row, far_column = bottom - tap // 3 * SHIFT, right - tap % 3 * SHIFT
        on_grid = (far_row >= 0) & (far_column >= 0) & (far_row % STRIDE == 0) & (far_column % STRIDE == 0)
        row, column = far_row // STRIDE, far_column // STRIDE
        there = inside & on_grid & (row < OUT_HEIGHT) & (column < OUT_WIDTH)
        at = row * OUT_WIDTH + column
        q_value = tl.load(q + plane.to(tl.int64) * OUT_HEIGHT * OUT_WIDTH + at, mask=there, other=0.0).to(wide)
        for rank in tl.static_range(RANK):
            place = (plane.to(tl.int64) * RANK + rank) * OUT_HEIGHT * OUT_WIDTH + at
            weight = tl.load(window + (channel * RANK + rank) * 9 + tap).to(wide)
            total += tl.load(grad + place, mask=there, other=0.0).to(wide) * q_value * weight
    place = plane.to(tl.int64) * HEIGHT * WIDTH + pixel
    tl.store(k_grad + place, total.to(k_grad.dtype.element_ty), mask=inside)


@triton.jit
def _window_grad(
    grad, q, k, sums,
    EMBED: tl.constexpr, RANK: tl.constexpr, HEIGHT, WIDTH, OUT_HEIGHT, OUT_WIDTH,
    STRIDE: tl.constexpr, SHIFT: tl.constexpr, PADDING: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """sum over the pixels of one image of grad * q * S_d k: (B, E * R, 9). Summed over images by the caller."""
    plane = tl.program_id(0)  # image * EMBED * RANK + channel
    source = plane // RANK
    wide: tl.constexpr = sums.dtype.element_ty
    tap = tl.arange(0, 16)
    total = tl.zeros((16,), dtype=wide)
    for start in range(0, OUT_HEIGHT * OUT_WIDTH, BLOCK):
        pixel = start + tl.arange(0, BLOCK)
        inside = pixel < OUT_HEIGHT * OUT_WIDTH
        g = tl.load(grad + plane.to(tl.int64) * OUT_HEIGHT * OUT_WIDTH + pixel, mask=inside, other=0.0).to(wide)
        g *= tl.load(q + source.to(tl.int64) * OUT_HEIGHT * OUT_WIDTH + pixel, mask=inside, other=0.0).to(wide)
        row = (pixel // OUT_WIDTH * STRIDE - PADDING)[None, :] + (tap // 3 * SHIFT)[:, None]
        column = (pixel % OUT_WIDTH * STRIDE - PADDING)[None, :] + (tap % 3 * SHIFT)[:, None]
        there = inside[None, :] & (tap < 9)[:, None]
        there = there & (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
        value = tl.load(k + source.to(tl.int64) * HEIGHT * WIDTH + row * WIDTH + column, mask=there, other=0.0)
        total += tl.sum(value.to(wide) * g[None, :], axis=1)
    tl.store(sums + plane.to(tl.int64) * 9 + tap, total, mask=tap < 9)


KERNELS = {
    "forward": _tuned(_forward),
    "q_grad": _tuned(_q_grad),
    "k_grad": _tuned(_k_grad),
    "window_grad": _tuned(_window_grad),
}
