"""A whole model's deploy twin, and how far its logits are from the trained form."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from xvol.block import XVolution2d
from xvol.probe import at_rest

__all__ = ["fuse", "fuse_error"]


def fuse(model: nn.Module) -> nn.Module:
    """A copy of `model` with each X-volution block replaced by its exact deploy twin; `model` is left as it is.

    All else is copied unchanged: norms after plain convolutions are not folded, as in
    `timm.utils.model.reparameterize_model`, which gives the same result. `model` may itself be a block.
    """
    if isinstance(model, XVolution2d):
        return model.fuse()
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if isinstance(module, XVolution2d):
            parent, _, child = name.rpartition(".")
            setattr(twin.get_submodule(parent), child, module.fuse())
    return twin


def fuse_error(model: nn.Module, fused: nn.Module, x: Tensor) -> float:
    """Largest absolute difference between the outputs of two models on `x`, both in eval mode; NaN if either has one.

    Args:
        model, fused: take `x` and return one tensor of equal shapes. Their modes are restored.
        x: a batch, such as (B, C, H, W).
    """
    with at_rest(model, fused):
        return float((model(x) - fused(x)).abs().max())
