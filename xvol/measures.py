"""Measures of a model: its parameters, its multiply-accumulates (MACs), and how much of its blocks their added branches are.

B = batch, C = channels, H, W = height, width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from xvol.block import XVolution2d
from xvol.branches.base import Branch
from xvol.deploy_form import FusedXVolution2d
from xvol.probe import at_rest, run_blank_image
from xvol.spec import CONV


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


# torch counts the attention kernels of accelerators, and not that of the CPU.
_UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


def count_params(model: nn.Module) -> int:
    """Number of parameters, shared ones once; buffers, such as running statistics, are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """MACs of one image in eval mode: convolutions, matrix products, and the branches' element-wise products.

    Norms, activations, pooling and additions count nothing, as is the custom. The model's modes are restored.

    Args:
        model: takes (1, C, H, W).
        input_size: (C, H, W).

    Raises:
        ValueError: such an image does not go through the model.
    """
    corrections: list[int] = []

    def correct(branch: nn.Module, _: Any, y_BCHW: Tensor) -> None:
        assert isinstance(branch, Branch)
        corrections.append(branch.elementwise_macs((y_BCHW.shape[2], y_BCHW.shape[3])))

    hooks = [module.register_forward_hook(correct) for module in model.modules() if isinstance(module, Branch)]
    try:
        with FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
            run_blank_image(model, input_size)
    finally:
        for hook in hooks:
            hook.remove()
    return counter.get_total_flops() // 2 + sum(corrections)


def doses(model: nn.Module, images: Tensor) -> dict[str, float | None]:
    """rms of what the added branches of each block sum to, over the rms of its convolution's output, in eval mode.

    Both after their norms, and about each channel's mean over the images: what is the same for every input is no
    attention, and the biases of a block's norms learn as one. 0 is a block that is its convolution, 1 one of two equal
    halves. Of a deploy form: what depends on the input over the static convolution, whatever that was folded from.
    Nothing is changed, and no random number drawn.

    Args:
        images: (B, C, H, W), on the model's device, as the model is fed.

    Returns:
        by the name of each block; None where it has no convolution, nothing beside it, or one that gives a constant.
    """
    found: dict[str, float | None] = {}

    def hook(name: str, block: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return block.register_forward_pre_hook(lambda _, inputs: found.update({name: _dose(block, inputs[0])}))

    blocks = [(name, m) for name, m in model.named_modules() if isinstance(m, XVolution2d | FusedXVolution2d)]
    handles = [hook(name, block) for name, block in blocks]
    try:
        with at_rest(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Geometric mean of those that are there, since they are ratios; None where none is, 0 where one is 0."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    return 0.0 if min(there) <= 0 else math.exp(math.fsum(map(math.log, there)) / len(there))


def _dose(block: nn.Module, x_BCHW: Tensor) -> float | None:
    if isinstance(block, FusedXVolution2d):
        conv = None if block.static is None else block.static(x_BCHW)
        added = [branch(x_BCHW) for branch in block.dynamic]
    else:
        outputs = {name: norm(branch(x_BCHW)) for name, branch, norm in cast(XVolution2d, block).parts()}
        conv = outputs.pop(CONV, None)
        added = list(outputs.values())
    if conv is None or not added:
        return None
    whole, part = _spread(conv), _spread(torch.stack(added).sum(0))
    return part / whole if whole > 0 else None


def _spread(y_BCHW: Tensor) -> float:
    """Root mean square about each channel's mean over images and pixels."""
    return math.sqrt(float(y_BCHW.float().var((0, 2, 3), correction=0).mean()))
