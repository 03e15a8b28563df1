"""CPU kernels of `nms` and `roi_align` for a torchvision whose compiled half does not load, as beside a CPU build of torch.

There torchvision's `nms` raises, and its `roi_align` starts `torch.compile` at the first call. `install` gives both operators a
kernel in plain torch, so that `torchvision.ops` and `torchvision.models.detection` train and predict. Both follow the compiled
CPU kernels: order and ties of boxes, samples outside the picture, adaptive sampling, autocast, no gradient to boxes.
"""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import torch
import torchvision
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

_SIGNATURE = (
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, int sampling_ratio,"
    " bool aligned) -> Tensor"
)
# of R boxes: starts (R,) and sizes (R,), in pixels of the map; number of bins
_Axis: TypeAlias = tuple[Tensor, Tensor, int]
_BLOCK = 256  # boxes of which nms compares each with all that are left, at once
_library: list[Any] = []  # a Library takes its kernels away when it is collected


def install() -> bool:
    """Give torchvision the two operators where it has none; beside sound ones nothing is changed. May be called again.

    Returns:
        Whether they were needed: True where the kernels are those of this module.
    """
    if torchvision.extension._has_ops():
        return False
    if not _library:
        library = torch.library.Library("torchvision", "FRAGMENT")  # nms is declared: xvol/timm_hook.py
        library.impl("nms", nms, "CPU")
        library.define(_SIGNATURE)
        # composed of torch's own operators, so that autograd needs no second kernel
        library.impl("roi_align", roi_align, "CompositeImplicitAutograd")
        _library.append(library)
        # torchvision's functions ask before they call an operator. Their answers are changed in the two modules whose
        # operators exist now, after torchvision's import, and not in torchvision.extension: what that says of the
        # operators that are still absent (roi_pool, deform_conv2d) stays true. No function of torchvision is replaced.
        for name in ("boxes", "roi_align"):
            vars(sys.modules[f"torchvision.ops.{name}"])["_assert_has_ops"] = lambda: None
        vars(sys.modules["torchvision.ops.roi_align"])["_has_ops"] = lambda: True
    return True


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes stay when each one, from the highest score down, removes those after it that overlap it too much.

    Args:
        boxes: (n, 4), x1, y1, x2, y2.
        scores: (n,), of the boxes' dtype; of equal ones the first comes first.
        iou_threshold: a box goes whose intersection over union with a better one is above it.

    Returns:
        int64 (k,), indices in the order of falling scores.

    Raises:
        ValueError: for boxes and scores of other shapes or of two dtypes.
    """
    mixed = boxes.dtype != scores.dtype and not torch.is_autocast_enabled(boxes.device.type)
    if mixed or boxes.shape[1:] != (4,) or scores.shape != boxes.shape[:1]:
        raise ValueError(
            f"boxes of {tuple(boxes.shape)} {boxes.dtype} with scores of {tuple(scores.shape)} {scores.dtype}:"
            " nms takes (n, 4) and (n,), of one dtype"
        )
    boxes = _full(boxes.detach())  # what stays has no gradient
    left = scores.argsort(descending=True, stable=True)
    kept = [left[:0]]
    while len(left):
        head, size = left[:_BLOCK], min(_BLOCK, len(left))
        # in float64, as C++ compares a float with a double
        over = _iou(boxes[head], boxes[left]).double() > iou_threshold
        # inside the block each row is one integer with a byte for a box: a loop that costs nothing beside the matrix
        rows = over[:, :size].contiguous().numpy().tobytes()
        gone, stays = 0, []
        for i in range(size):
            if not gone >> 8 * i & 1:
                stays.append(i)
                gone |= int.from_bytes(rows[i * size : (i + 1) * size], "little")
        kept.append(head[stays])
        left = left[size:][~over[stays, size:].any(0)]
    return torch.cat(kept)


def _iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of each of (b, 4) with each of (n, 4) boxes, (b, n); NaN where both have no area."""
    low = torch.maximum(one.T[:2, :, None], other.T[:2, None])  # (2, b, n)
    high = torch.minimum(one.T[2:, :, None], other.T[2:, None])
    width, height = high.sub_(low).clamp_(min=0)
    inter = width.mul_(height)
    areas = [(each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1]) for each in (one, other)]
    return inter / (areas[0][:, None] + areas[1] - inter)


def roi_align(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Mean of bilinear samples in each bin of each box: RoIAlign of Mask R-CNN (arXiv:1703.06870, section 3).

    Args:
        input: float (B, C, H, W).
        rois: (R, 5) of the input's dtype: index in the batch, x1, y1, x2, y2 in pixels of the picture. They get no gradient.
        spatial_scale: pixels of the input for each pixel of the picture.
        pooled_height, pooled_width: bins of a box.
        sampling_ratio: samples of a bin along either axis; for 0 and below as many as a bin has pixels, rounded up.
        aligned: whether pixel i has its centre at i + 0.5; without, boxes are at least one pixel wide and high.

    Returns:
        (R, C, pooled_height, pooled_width) of the input's dtype. A sample more than one pixel outside the input is 0.

    Raises:
        ValueError: for boxes of another shape, or of another dtype outside autocast.
    """
    kind = input.device.type
    mixed = input.dtype != rois.dtype and not torch.is_autocast_enabled(kind)
    if mixed or rois.shape[1:] != (5,):
        raise ValueError(
            f"boxes of {tuple(rois.shape)} {rois.dtype} on maps of {input.dtype}: roi_align takes (R, 5), of one dtype"
        )
    maps, boxes = _full(input), _full(rois.detach())
    corners = boxes[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    start, size = corners[:, :2], corners[:, 2:] - corners[:, :2]  # x, y
    if not aligned:
        size = size.clamp(min=1)
    of = boxes[:, 0].long()
    rows = start[:, 1], size[:, 1], pooled_height
    columns = start[:, 0], size[:, 0], pooled_width
    with torch.autocast(kind, enabled=False):  # half precision would blur where the samples lie
        if sampling_ratio > 0 or not len(of):
            return _fixed(maps, of, rows, columns, max(1, sampling_ratio)).to(input.dtype)
        return _adaptive(maps, of, rows, columns).to(input.dtype)


def _fixed(maps: Tensor, of: Tensor, rows: _Axis, columns: _Axis, ratio: int) -> Tensor:
    """With the same number of samples in each bin: each bin is a weighted sum of 4 * ratio**2 pixels, gathered."""
    channels, height, width = maps.shape[1:]
    (y, y_weight), (x, x_weight) = _samples(*rows, height, ratio), _samples(*columns, width, ratio)
    first = of[:, None, None] * (height * width) + y * width
    pixels = (first[:, :, None, :, None] + x[:, None, :, None, :]).flatten(3).flatten(0, 2)
    weights = (y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]).flatten(3).flatten(0, 2).to(maps.dtype)
    bins = _WeightedSum.apply(maps.permute(0, 2, 3, 1).reshape(-1, channels), pixels, weights)
    return bins.view(len(of), rows[2], columns[2], channels).permute(0, 3, 1, 2).contiguous()


def _adaptive(maps: Tensor, of: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """With a grid of each box's own: its bins are Y X Z^T, with an interpolation matrix for either axis."""
    channels, height, width = maps.shape[1:]
    y, x = (_matrix(*axis, length).to(maps.dtype) for axis, length in ((rows, height), (columns, width)))
    pooled, places = [], []
    for i in of.unique().tolist():
        here = torch.where(of == i)[0]
        lines = y[here].flatten(0, 1) @ maps[i].transpose(0, 1).flatten(1)  # (r * bins, C * W)
        bins = lines.view(len(here), -1, width) @ x[here].transpose(1, 2)  # (r, bins * C, bins)
        pooled.append(bins.view(len(here), rows[2], channels, columns[2]).transpose(1, 2))
        places.append(here)
    return torch.cat(pooled)[torch.cat(places).argsort()]


def _samples(start: Tensor, size: Tensor, bins: int, length: int, ratio: int) -> tuple[Tensor, Tensor]:
    """Of samples along one axis, the pixels on either side and their weights in the bin's mean: two of (R, bins, 2 * ratio)."""
    a_bin = (size / bins)[:, None, None]
    index = torch.arange(bins, dtype=start.dtype, device=start.device)[:, None]
    half = torch.arange(ratio, dtype=start.dtype, device=start.device) + 0.5
    at = start[:, None, None] + index * a_bin + half * a_bin / ratio  # (R, bins, ratio)
    inside = ((at >= -1) & (at <= length)).to(at) / ratio
    at = at.clamp(0, length - 1)
    low = at.floor()
    beyond = at - low
    pixels = torch.cat([low, (low + 1).clamp(max=length - 1)], 2).long()
    return pixels, torch.cat([inside * (1 - beyond), inside * beyond], 2)


def _matrix(start: Tensor, size: Tensor, bins: int, length: int) -> Tensor:
    """The weight of each pixel along one axis in each bin, (R, bins, length), with as many samples a bin as it has pixels."""
    wanted = (size / bins).ceil().long()
    matrix = start.new_zeros(len(start), bins, length)
    for ratio in wanted[wanted > 0].unique().tolist():  # a box of no size has no samples: zeros
        those = torch.where(wanted == ratio)[0]
        pixels, weights = _samples(start[those], size[those], bins, length, ratio)
        matrix[those] = matrix[those].scatter_add(2, pixels, weights)
    return matrix


class _WeightedSum(torch.autograd.Function):
    """Rows `values[index]` (P, C), weighted and summed: index and weights (K, S) give (K, C).

    The gradient is the same sum the other way round, by index in rising order: 3 times as fast as that of `embedding_bag`.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(index, weights)
        ctx.rows = len(values)
        return embedding_bag(index, values, per_sample_weights=weights, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        index, weights = ctx.saved_tensors
        flat, order = index.flatten().sort()
        counts = flat.bincount(minlength=ctx.rows)
        bags = embedding_bag(
            order // index.shape[1],
            gradient.contiguous(),
            counts.cumsum(0) - counts,
            per_sample_weights=weights.flatten()[order],
            mode="sum",
        )
        return bags, None, None


def _full(values: Tensor) -> Tensor:
    """At least float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
