"""A whole model's deploy twin, and how far its logits are from the trained form."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xvol.block import XVolution2d
from xvol.cost import count_params
from xvol.fold import fold_norm
from xvol.probe import at_rest, norm_after, watch

__all__ = ["FuseReport", "fuse", "fuse_error", "fuse_report"]


@dataclass(frozen=True, kw_only=True)
class FuseReport:
    """What fusing a model does to it.

    Attributes:
        blocks: X-volution blocks in the model; `collapsed` of them become a plain `nn.Conv2d`.
        params, params_fused: number of parameters before and after.
        error_float64, error_float32: largest absolute difference of an output between the two forms, computed in each
            precision. The first shows that the algebra is exact, the second what a user will see.
        largest: largest absolute output of the model as trained, in float64; the errors' yardstick.
    """

    blocks: int
    collapsed: int
    params: int
    params_fused: int
    error_float64: float
    error_float32: float
    largest: float

    def __str__(self) -> str:
        return (
            f"{self.blocks} blocks fused, {self.collapsed} of them to a plain convolution; "
            f"{self.params} -> {self.params_fused} params; largest error {self.error_float64:.1e} in float64, "
            f"{self.error_float32:.1e} in float32, of outputs up to {self.largest:.3g}"
        )


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


def fuse_report(model: nn.Module, x: Tensor | tuple[int, int, int], *, plain: bool = False) -> FuseReport:
    """Fuse copies of `model` in float64 and float32, on the CPU and in eval mode, and compare what they give.

    Args:
        model: a model, or a block; left as it is.
        x: a batch of images, or the (C, H, W) of one, for which two of unit-normal noise are drawn from a fixed seed.
        plain: also let plain convolutions take their norms in, as `fuse(model, input_size)` does.

    Raises:
        ValueError: the images do not go through the model, or it cannot be fused.

    Example:
        >>> print(fuse_report(model, (3, 224, 224)))  # doctest: +SKIP
    """
    if isinstance(x, Tensor):
        images_BCHW = x.detach().to("cpu", torch.float64)
    else:
        noise = torch.Generator().manual_seed(0)
        images_BCHW = torch.randn(2, *x, generator=noise, dtype=torch.float64)
    size = (images_BCHW.shape[1], images_BCHW.shape[2], images_BCHW.shape[3])
    errors: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.float64):
        trained = copy.deepcopy(model).to("cpu", dtype)
        fused = fuse(trained, size if plain else None)
        errors[dtype] = fuse_error(trained, fused, images_BCHW.to(dtype))
    with at_rest(trained):
        largest = float(trained(images_BCHW).abs().max())
    blocks = [name for name, module in model.named_modules() if isinstance(module, XVolution2d)]
    return FuseReport(
        blocks=len(blocks),
        collapsed=sum(type(fused.get_submodule(name)) is nn.Conv2d for name in blocks),
        params=count_params(trained),
        params_fused=count_params(fused),
        error_float64=errors[torch.float64],
        error_float32=errors[torch.float32],
        largest=largest,
    )


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
