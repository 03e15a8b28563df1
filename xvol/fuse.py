"""A whole model's deploy twin, and how far its logits are from the trained form."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from xvol.block import XVolution2d
from xvol.fold import fold_norm
from xvol.probe import at_rest, norm_after, watch

__all__ = ["fuse", "fuse_error"]


def fuse(model: nn.Module, input_size: tuple[int, int, int] | None = None) -> nn.Module:
    """A copy of `model` with each X-volution block replaced by its exact deploy twin; `model` is left as it is.

    `model` may itself be a block.

    Args:
        input_size: None copies all else unchanged, as `timm.utils.model.reparameterize_model` does, which gives the
            same result. With the (C, H, W) of one image, every other Conv2d that feeds one BatchNorm2d takes it in as
            well, so that the latency of a plain backbone can be compared with that of a converted one.

    Raises:
        ValueError: an image of `input_size` does not go through the model.
    """
    if isinstance(model, XVolution2d):
        return model.fuse()
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if isinstance(module, XVolution2d):
            twin.set_submodule(name, module.fuse())
    if input_size is not None:
        _take_norms_in(twin, input_size)
    return twin


def _take_norms_in(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    calls = watch(model, input_size)
    for name, conv in list(model.named_modules()):
        norm_name = norm_after(model, name, calls) if type(conv) is nn.Conv2d and name in calls else None
        if norm_name is None:
            continue
        norm = model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        weight, bias = fold_norm(conv.weight.detach(), None if conv.bias is None else conv.bias.detach(), norm)
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
        model.set_submodule(norm_name, nn.Identity().train(norm.training))


def fuse_error(model: nn.Module, fused: nn.Module, x: Tensor) -> float:
    """Largest absolute difference between the outputs of two models on `x`, both in eval mode; NaN if either has one.

    Args:
        model, fused: take `x` and return one tensor of equal shapes. Their modes are restored.
        x: a batch, such as (B, C, H, W).
    """
    with at_rest(model, fused):
        return float((model(x) - fused(x)).abs().max())
