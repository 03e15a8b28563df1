"""The PSSA branch's product q * DW(k) as one Triton kernel, forward and backward; plain PyTorch where it cannot run.

Its speed is UNMEASURED: it was written and tested on a machine without a GPU, in Triton's interpreter. Nothing chooses
it by itself; the branch's option does: `triton=True`.

B = batch, E = embedding channels, R = rank, H, W = height, width of k, H', W' = of q.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def triton_runs_on(tensor: Tensor) -> bool:
    """Tell whether the kernel can run on the tensor: Triton installed, and a GPU or the interpreter (on any device)."""
    if find_spec("triton") is None or tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        return False
    return tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"


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
    if not triton_runs_on(q_BEHW):
        return _plain(q_BEHW, k_BEHW, window_E133, stride, shift, padding)
    if torch.is_autocast_enabled(q_BEHW.device.type):
        window_E133 = window_E133.to(q_BEHW.dtype)
    result: Tensor = torch.ops.xvol.shifted_product(q_BEHW, k_BEHW, window_E133, stride, shift, padding)
    return result


def _plain(q: Tensor, k: Tensor, window: Tensor, stride: int, shift: int, padding: int) -> Tensor:
    neighbours = functional.conv2d(k, window, None, stride, padding, shift, groups=k.shape[1])
    return q.repeat_interleave(window.shape[0] // q.shape[1], dim=1) * neighbours


@torch.library.custom_op("xvol::shifted_product", mutates_args=())
def _shifted_product(q: Tensor, k: Tensor, window: Tensor, stride: int, shift: int, padding: int) -> Tensor:
    q, k, window = q.contiguous(), k.contiguous(), window.contiguous()
    batch, embed, out_height, out_width = q.shape
    height, width = k.shape[2:]
    y = q.new_empty(batch, window.shape[0], out_height, out_width)
    if y.numel():
        triton, kernels = _kernels()
        pixels = out_height * out_width
        sizes = (embed, window.shape[0] // embed, height, width, out_height, out_width, stride, shift, padding)
        with torch.cuda.device_of(q):
            kernels["forward"][lambda meta: (batch * window.shape[0], triton.cdiv(pixels, meta["BLOCK"]))](
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
    triton, kernels = _kernels()
    sizes = (embed, rank, height, width, out_height, out_width, stride, shift, padding)
    sums = torch.empty(batch, embed * rank, 9, dtype=wide, device=q.device)
    with torch.cuda.device_of(q):
        kernels["q_grad"][lambda meta: (batch * embed, triton.cdiv(out_height * out_width, meta["BLOCK"]))](
            grad, k, window, q_grad, *sizes
        )
        kernels["k_grad"][lambda meta: (batch * embed, triton.cdiv(height * width, meta["BLOCK"]))](
            grad, q, window, k_grad, *sizes
        )
        kernels["window_grad"][(batch * embed * rank,)](grad, q, k, sums, *sizes)
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


@cache
def _kernels() -> tuple[Any, dict[str, Any]]:
    """Triton, and the kernels by name, compiled for each geometry and tuned for each size on the first call."""
    from xvol import triton_source  # which cannot be imported where Triton is not installed

    return triton_source.triton, triton_source.KERNELS
