"""PSSA in one pass over a few images at a time, which keeps no embedding for the backward pass but computes it again.

B = batch, C = channels (I = in, E = embedding, O = out), R = rank, D = directions, H, W = height, width, P = pixels of
the images at hand in rows, g = groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xvol.branches.attention import POSITIONS, pad_edges, tap_window

# Numbers of one embedding that are worked on at a time: 128 KiB in float32, so that all of an image stays in a core's
# second-level cache; of images with few pixels 1 MiB, since there the size of the matrix products counts.
CHUNK_NUMEL, CHUNK_NUMEL_FEW_PIXELS, FEW_PIXELS = 2**15, 2**18, 64
# Where one pass beats plain operations on one CPU thread, recomputing included: docs/LOG.md, 2026-11-22.
LARGE_NUMEL, MANY_CHANNELS = 144 * 1024, 512


@dataclass(frozen=True)
class Execution:
    """How a PSSA branch computes, not what: no part of its options, so of no architecture's hash.

    Attributes:
        recompute: True saves only the input for the backward pass and computes q and k again there. False uses plain
            operations, which save q, k, the neighbours and their product. None chooses the faster on a CPU
            (`one_pass_is_faster`) and plain operations elsewhere, under torch.compile and in exports. The forms agree
            up to rounding: 1e-6 of the result in float32.
    """

    recompute: bool | None = None


def set_execution(model: nn.Module, execution: Execution) -> int:
    """Set how all PSSA branches of a model compute; returns how many there are.

    Raises:
        ValueError: the model has none.

    Example:
        >>> import xvol
        >>> set_execution(xvol.XVolution2d(8, 8), Execution(recompute=True))
        1
    """
    branches = [module for module in model.modules() if isinstance(getattr(module, "execution", None), Execution)]
    if not branches:
        raise ValueError(f"{type(model).__name__} has no pssa branch whose execution could be set")
    for branch in branches:
        branch.execution = execution  # type: ignore[assignment]
    return len(branches)


def one_pass_is_faster(channels: int, pixels: int) -> bool:
    """Tell whether one pass beats plain operations on a CPU, forward and backward.

    It does where one image leaves the cache between two plain operations, and where wide maps have few pixels: plain
    operations make a matrix product for each image there, one pass makes one for several.

    Args:
        channels: E * R.
        pixels: H * W.
    """
    return channels * pixels >= LARGE_NUMEL or (pixels <= FEW_PIXELS and channels >= MANY_CHANNELS)


def pssa_one_pass(
    x_BCHW: Tensor,
    query_EI: Tensor,
    query_bias_E: Tensor | None,
    key_EI: Tensor,
    taps_ED: Tensor,
    project_OE: Tensor,
    project_bias_O: Tensor | None,
    *,
    stride: int = 1,
    shift: int = 1,
    replicate: bool = False,
) -> Tensor:
    """sum_r P^r (q * DW_{a^r}(k)), saving for the backward pass the arguments alone.

    Differentiable any number of times, under autocast and torch.compile, on any device; fast on a CPU. Without
    gradients it runs as plain operations, which counters and profilers see.

    Args:
        x_BCHW: (B, I, H, W), contiguous or channels_last; the result has the same layout.
        query_EI, key_EI: (E, I / g).
        query_bias_E, project_bias_O: (E,) and (O,), or None.
        taps_ED: (E * R, D), channel by channel, ranks inside; D is 4, 8 or 9.
        project_OE: (O, E * R / g).
        stride, shift: at least 1.
        replicate: take the nearest pixel of k outside of the image, not zero.

    Returns:
        (B, O, ceil(H / stride), ceil(W / stride)).
    """
    tensors = (x_BCHW, query_EI, query_bias_E, key_EI, taps_ED, project_OE, project_bias_O)
    if torch.is_autocast_enabled(x_BCHW.device.type):
        low = torch.get_autocast_dtype(x_BCHW.device.type)
        tensors = tuple(tensor if _is_wide(tensor) else tensor.to(low) for tensor in tensors)  # type: ignore[union-attr, assignment]
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        result: Tensor = torch.ops.xvol.pssa(*tensors, stride, shift, replicate)
        return result
    return _forward(*tensors, stride, shift, replicate)


def _is_wide(tensor: Tensor | None) -> bool:
    return tensor is None or tensor.dtype == torch.float64


def _forward(
    x: Tensor,
    query: Tensor,
    query_bias: Tensor | None,
    key: Tensor,
    taps: Tensor,
    project: Tensor,
    project_bias: Tensor | None,
    stride: int,
    shift: int,
    replicate: bool,
) -> Tensor:
    y = _empty_result(x, project, stride)
    window, groups, rank = tap_window(taps), x.shape[1] // key.shape[1], taps.shape[0] // key.shape[0]
    for start, stop in _chunks(x, taps):
        part = x[start:stop]
        q = _embed(_rows(part[:, :, ::stride, ::stride]), query, query_bias, groups)
        k = _key(part, key, shift, replicate, groups)
        neighbours = _rows(_depthwise(_widen(k, rank), window, stride, shift, replicate))
        _project_into(y[start:stop], _repeat(q, taps).mul_(neighbours), project, project_bias, groups)
    return y


def _backward(
    grad: Tensor,
    x: Tensor,
    query: Tensor,
    query_bias: Tensor | None,
    key: Tensor,
    taps: Tensor,
    project: Tensor,
    stride: int,
    shift: int,
    replicate: bool,
) -> list[Tensor]:
    """Gradients of x, query, query_bias, key, taps and project; that of an absent query_bias is empty."""
    window, groups, rank = tap_window(taps), x.shape[1] // key.shape[1], taps.shape[0] // key.shape[0]
    x_grad, window_grad = torch.empty_like(x), torch.zeros_like(window)
    query_grad, key_grad, project_grad = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(project)
    bias_grad = x.new_zeros(0 if query_bias is None else query.shape[0])
    padding = 0 if replicate else shift
    for start, stop in _chunks(x, taps):
        part, grad_rows = x[start:stop], _rows(grad[start:stop])
        x_rows, strided_rows = _rows(part), _rows(part[:, :, ::stride, ::stride])
        q = _repeat(_embed(strided_rows, query, query_bias, groups), taps)
        k = _widen(_key(part, key, shift, replicate, groups), rank)
        neighbours = _rows(_depthwise(k, window, stride, shift, replicate))
        project_grad += _weight_grad(grad_rows, q * neighbours, groups)
        product_grad = _embed_back(grad_rows, project, groups)
        q_grad = (product_grad * neighbours).unflatten(1, (-1, rank)).sum(2) if rank > 1 else product_grad * neighbours
        neighbours_grad = _images(product_grad.mul_(q), grad[start:stop])
        k_grad, chunk_window_grad, _ = torch.ops.aten.convolution_backward(
            neighbours_grad,
            k,
            window,
            None,
            [stride] * 2,
            [padding] * 2,
            [shift] * 2,
            False,
            [0, 0],
            window.shape[0],
            [True, True, False],
        )
        window_grad += chunk_window_grad
        k_grad_rows = _rows(_fold_border(_narrow(k_grad, rank), part, key, shift, replicate))
        query_grad += _weight_grad(q_grad, strided_rows, groups)
        key_grad += _weight_grad(k_grad_rows, x_rows, groups)
        if query_bias is not None:
            bias_grad += q_grad.sum(0)
        _sum_into(x_grad[start:stop], (k_grad_rows, key), (q_grad, query), grad[start:stop], stride, groups)
    taps_grad = window_grad.view(-1, 9)[:, list(POSITIONS[taps.shape[1]])]
    return [x_grad, query_grad, bias_grad, key_grad, taps_grad, project_grad]


def _chunks(x: Tensor, taps: Tensor) -> list[tuple[int, int]]:
    """First and last image, exclusive, of each chunk: at least one image on a CPU, all of them elsewhere."""
    batch, pixels = x.shape[0], x.shape[2] * x.shape[3]
    numel = CHUNK_NUMEL_FEW_PIXELS if pixels <= FEW_PIXELS else CHUNK_NUMEL
    size = max(1, numel // max(1, taps.shape[0] * pixels)) if x.device.type == "cpu" else max(1, batch)
    return [(start, min(start + size, batch)) for start in range(0, batch, size)]


def _empty_result(x: Tensor, project: Tensor, stride: int) -> Tensor:
    batch, _, height, width = x.shape
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.empty(
        (batch, project.shape[0], -(-height // stride), -(-width // stride)),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )


def _rows(images: Tensor) -> Tensor:
    """(B, C, H, W) to (P, C): a view of one image or of channels_last ones, else a copy."""
    return images.permute(0, 2, 3, 1).flatten(0, 2)


def _images(rows: Tensor, like: Tensor) -> Tensor:
    """(P, C) to (B, C, H, W), a channels_last view, of the batch, height and width of `like`."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _by_group(rows: Tensor, groups: int) -> Tensor:
    return rows.unflatten(1, (groups, -1)).transpose(0, 1)  # (g, P, C / g)


def _embed(rows: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """A 1x1 convolution on rows: (P, I) to (P, O) by weight (O, I / g)."""
    if groups == 1:
        return rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
    product = torch.bmm(_by_group(rows, groups), weight.unflatten(0, (groups, -1)).transpose(1, 2))
    result = product.transpose(0, 1).flatten(1)
    return result if bias is None else result + bias


def _embed_back(grad_rows: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Its gradient for the rows: (P, O) to (P, I)."""
    if groups == 1:
        return grad_rows @ weight
    product = torch.bmm(_by_group(grad_rows, groups), weight.unflatten(0, (groups, -1)))
    return product.transpose(0, 1).flatten(1)


def _weight_grad(grad_rows: Tensor, rows: Tensor, groups: int) -> Tensor:
    """Its gradient for the weight: (P, O) and (P, I) to (O, I / g)."""
    if groups == 1:
        return grad_rows.t() @ rows
    return torch.bmm(_by_group(grad_rows, groups).transpose(1, 2), _by_group(rows, groups)).flatten(0, 1)


def _key(part: Tensor, key: Tensor, shift: int, replicate: bool, groups: int) -> Tensor:
    k = _images(_embed(_rows(part), key, None, groups), part)
    return pad_edges(k, shift) if replicate else k


def _depthwise(k: Tensor, window: Tensor, stride: int, shift: int, replicate: bool) -> Tensor:
    padding = 0 if replicate else shift
    return functional.conv2d(k, window, None, stride, padding, shift, groups=k.shape[1])


def _fold_border(k_grad: Tensor, part: Tensor, key: Tensor, shift: int, replicate: bool) -> Tensor:
    """Gradient of k from that of its padded form."""
    if not replicate:
        return k_grad
    like = k_grad.new_empty(()).expand(part.shape[0], key.shape[0], *part.shape[2:])
    return torch.ops.aten.replication_pad2d_backward(k_grad.contiguous(), like, [shift] * 4)


def _repeat(q_rows: Tensor, taps: Tensor) -> Tensor:
    """Each column once for each rank."""
    rank = taps.shape[0] // q_rows.shape[1]
    return q_rows if rank == 1 else q_rows.repeat_interleave(rank, dim=1)


def _widen(k: Tensor, rank: int) -> Tensor:
    return k if rank == 1 else k.repeat_interleave(rank, dim=1)


def _narrow(k_grad: Tensor, rank: int) -> Tensor:
    return k_grad if rank == 1 else k_grad.unflatten(1, (-1, rank)).sum(2)


def _is_flat(images: Tensor, groups: int) -> bool:
    """One image that a matrix product can write into, channels by pixels."""
    return groups == 1 and images.shape[0] == 1 and images.is_contiguous()


def _project_into(y: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    if _is_flat(y, groups):
        flat = torch.mm(weight, rows.t(), out=y[0].flatten(1))
        if bias is not None:
            flat += bias[:, None]
    else:
        y.copy_(_images(_embed(rows, weight, bias, groups), y))


def _sum_into(
    x_grad: Tensor, key: tuple[Tensor, Tensor], query: tuple[Tensor, Tensor], strided: Tensor, stride: int, groups: int
) -> None:
    """x_grad = K^T k_grad + Q^T q_grad, the latter on the strided pixels."""
    (k_rows, key_weight), (q_rows, query_weight) = key, query
    if _is_flat(x_grad, groups) and stride == 1:
        flat = torch.mm(key_weight.t(), k_rows.t(), out=x_grad[0].flatten(1))
        flat.addmm_(query_weight.t(), q_rows.t())
    else:
        x_grad.copy_(_images(_embed_back(k_rows, key_weight, groups), x_grad))
        x_grad[:, :, ::stride, ::stride] += _images(_embed_back(q_rows, query_weight, groups), strided)


@torch.library.custom_op("xvol::pssa", mutates_args=())
def _pssa(
    x: Tensor,
    query: Tensor,
    query_bias: Tensor | None,
    key: Tensor,
    taps: Tensor,
    project: Tensor,
    project_bias: Tensor | None,
    stride: int,
    shift: int,
    replicate: bool,
) -> Tensor:
    return _forward(x, query, query_bias, key, taps, project, project_bias, stride, shift, replicate)


@torch.library.custom_op("xvol::pssa_backward", mutates_args=())
def _pssa_backward(
    grad: Tensor,
    x: Tensor,
    query: Tensor,
    query_bias: Tensor | None,
    key: Tensor,
    taps: Tensor,
    project: Tensor,
    stride: int,
    shift: int,
    replicate: bool,
) -> list[Tensor]:
    return _backward(grad, x, query, query_bias, key, taps, project, stride, shift, replicate)


@_pssa.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    return _empty_result(x, rest[4], rest[6])


@_pssa_backward.register_fake
def _(grad: Tensor, x: Tensor, query: Tensor, query_bias: Tensor | None, *rest: Any) -> list[Tensor]:
    key, taps, project = rest[:3]
    bias_grad = x.new_empty(0 if query_bias is None else query.shape[0])
    return [torch.empty_like(x), torch.empty_like(query), bias_grad, *map(torch.empty_like, (key, taps, project))]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, bias, ctx.stride, ctx.shift, ctx.replicate = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients from the saved arguments. With `create_graph` by plain operations, which can be differentiated again."""
    tensors = ctx.saved_tensors
    arguments: list[Any] = [*tensors, ctx.stride, ctx.shift, ctx.replicate]
    bias_grad = grad.sum((0, 2, 3)) if ctx.has_bias else None
    if torch.is_grad_enabled():
        wanted = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
        found = iter(torch.autograd.grad(_plain(*arguments), wanted, grad, create_graph=True))
        grads = [next(found) if tensor is not None and tensor.requires_grad else None for tensor in tensors]
    else:
        grads = list(torch.ops.xvol.pssa_backward(grad, *arguments))
        grads[2] = None if tensors[2] is None else grads[2]
    return (*grads, bias_grad, None, None, None)


_pssa.register_autograd(_differentiate, setup_context=_save)


def _plain(
    x: Tensor,
    query: Tensor,
    query_bias: Tensor | None,
    key: Tensor,
    taps: Tensor,
    project: Tensor,
    stride: int,
    shift: int,
    replicate: bool,
) -> Tensor:
    groups, rank = x.shape[1] // key.shape[1], taps.shape[0] // key.shape[0]
    q = functional.conv2d(x, query[..., None, None], query_bias, stride, groups=groups)
    k = functional.conv2d(x, key[..., None, None], groups=groups)
    k = pad_edges(k, shift) if replicate else k
    neighbours = _depthwise(_widen(k, rank), tap_window(taps), stride, shift, replicate)
    return functional.conv2d(_widen(q, rank) * neighbours, project[..., None, None], groups=groups)
