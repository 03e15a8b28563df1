"""How much of a block comes from its added branches: their output's spread over that of its convolution.

B = batch, C = channels, H, W = height, width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from xvol.block import XVolution2d
from xvol.deploy_form import FusedXVolution2d
from xvol.spec import CONV

__all__ = ["doses", "geometric_mean"]


@torch.no_grad()
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

    was_training = {module: module.training for module in model.modules()}
    blocks = [(name, m) for name, m in model.named_modules() if isinstance(m, XVolution2d | FusedXVolution2d)]
    handles = [hook(name, block) for name, block in blocks]
    try:
        model.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in was_training.items():
            module.training = mode
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
