"""The PSSA branch's product q * DW(k) as one Triton kernel, forward and backward; imported where Triton can run alone.

Its speed is UNMEASURED: it was written and tested on a machine without a GPU, in Triton's interpreter. Nothing chooses
it by itself; the branch's option does: `triton=True`.

One program stands for one channel of one image and a block of its pixels. In the kernels all tensors are contiguous: q and
its gradient (B, E, H', W'), k and its gradient (B, E, H, W), the window (E * R, 9), the result and its gradient
(B, E * R, H', W'). Sums are kept in float32, in float64 for float64.

B = batch, E = embedding channels, R = rank, H, W = height, width of k, H', W' = of q.
"""
# mypy: ignore-errors
# Annotations stay values here, for Triton reads them: no `from __future__ import annotations`.

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

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


@torch.library.custom_op("xvol::shifted_product", mutates_args=())
def _shifted_product(q: Tensor, k: Tensor, window: Tensor, stride: int, shift: int, padding: int) -> Tensor:
    q, k, window = q.contiguous(), k.contiguous(), window.contiguous()
    batch, embed, out_height, out_width = q.shape
    height, width = k.shape[2:]
    y = q.new_empty(batch, window.shape[0], out_height, out_width)
    if y.numel():
        pixels = out_height * out_width
        sizes = (embed, window.shape[0] // embed, height, width, out_height, out_width, stride, shift, padding)
        with torch.cuda.device_of(q):
            KERNELS["forward"][lambda meta: (batch * window.shape[0], triton.cdiv(pixels, meta["BLOCK"]))](
                q, k, window, y, *sizes
            )
    return y


@torch.library.custom_op("xvol::shifted_product_backward", mutates_args=())
def _shifted_product_backward(
    grad: Tensor, q: Tensor, k: Tensor, window: Tensor, stride: int, shift: int, padding: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and the window: each pixel of q and of k gathers its own, so that nothing races."""
    grad, q, k, window = grad.contiguous(), q.contiguous(), k.contiguous(), window.contiguous()
    batch, embed, out_height, out_width = q.shape
    height, width = k.shape[2:]
    rank = window.shape[0] // embed
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    q_grad, k_grad = torch.empty_like(q), torch.empty_like(k)
    if not (q.numel() and k.numel()):
        return q_grad.zero_(), k_grad.zero_(), torch.zeros_like(window)
    sizes = (embed, rank, height, width, out_height, out_width, stride, shift, padding)
    sums = torch.empty(batch, embed * rank, 9, dtype=wide, device=q.device)
    with torch.cuda.device_of(q):
        KERNELS["q_grad"][lambda meta: (batch * embed, triton.cdiv(out_height * out_width, meta["BLOCK"]))](
            grad, k, window, q_grad, *sizes
        )
        KERNELS["k_grad"][lambda meta: (batch * embed, triton.cdiv(height * width, meta["BLOCK"]))](
            grad, q, window, k_grad, *sizes
        )
        KERNELS["window_grad"][(batch * embed * rank,)](grad, q, k, sums, *sizes)
    return q_grad, k_grad, sums.sum(0).view(window.shape).to(window.dtype)


@_shifted_product.register_fake
def _(q: Tensor, k: Tensor, window: Tensor, stride: int, shift: int, padding: int) -> Tensor:
    return q.new_empty(q.shape[0], window.shape[0], *q.shape[2:])


@_shifted_product_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, window: Tensor, *_: int) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), window.new_empty(window.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, window, *ctx.how = inputs
    ctx.save_for_backward(q, k, window)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients by the kernel. With `create_graph` by plain operations, which can be differentiated again."""
    if torch.is_grad_enabled():
        wanted = [tensor for tensor in ctx.saved_tensors if tensor.requires_grad]
        found = iter(torch.autograd.grad(_plain(*ctx.saved_tensors, *ctx.how), wanted, grad, create_graph=True))
        return (*(next(found) if tensor.requires_grad else None for tensor in ctx.saved_tensors), None, None, None)
    return (*torch.ops.xvol.shifted_product_backward(grad, *ctx.saved_tensors, *ctx.how), None, None, None)


_shifted_product.register_autograd(_differentiate, setup_context=_save)


def _plain(q: Tensor, k: Tensor, window: Tensor, stride: int, shift: int, padding: int) -> Tensor:
    neighbours = functional.conv2d(k, window, None, stride, padding, shift, groups=k.shape[1])
    return q.repeat_interleave(window.shape[0] // q.shape[1], dim=1) * neighbours


def shifted_product(
    q_BEHW: Tensor, k_BEHW: Tensor, window_E133: Tensor, stride: int, shift: int, padding: int
) -> Tensor:
    """q * DW(k), each q once for each rank: DW is a depthwise 3x3 convolution dilated by `shift`, zero outside of k.

    Differentiable any number of times in q, k and the window: with `create_graph` by plain operations. Sums in float32
    (float64 for float64).

    Args:
        q_BEHW: (B, E, H', W').
        k_BEHW: (B, E, H, W).
        window_E133: (E * R, 1, 3, 3).
        stride, shift, padding: of the depthwise convolution.

    Returns:
        (B, E * R, H', W'), contiguous.
    """
    if torch.is_autocast_enabled(q_BEHW.device.type):
        window_E133 = window_E133.to(q_BEHW.dtype)
    return _shifted_product(q_BEHW, k_BEHW, window_E133, stride, shift, padding)
