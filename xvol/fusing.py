"""A whole model's deploy twin, and how far its logits are from the trained form."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn

from xvol.block import XVolution2d
from xvol.fold import fold_norm
from xvol.probe import Call, at_rest, count_params, takers, watch
from xvol.siting import Refusal
from xvol.surgery import keep_from_reparameterising, split_norm

_FOLDABLE = (nn.Conv2d, Conv2dSame)  # linear in their weights; a weight-standardised convolution is not


@dataclass(frozen=True, kw_only=True)
class FuseReport:
    """What fusing a model does to it.

    Attributes:
        blocks: X-volution blocks in the model; `collapsed` of them become a plain `nn.Conv2d`.
        params, params_fused: number of parameters before and after.
        error_float64, error_float32: largest absolute difference of an output between the two forms, computed in each
            precision. The first shows that the algebra is exact, the second what a user will see.
        largest: largest absolute output of the model as trained, in float64; the errors' yardstick.
        norms: BatchNorms of plain convolutions that were taken in.
        left: why others were not, most frequent first, each with how many; empty unless they were to be taken in.
    """

    blocks: int
    collapsed: int
    params: int
    params_fused: int
    error_float64: float
    error_float32: float
    largest: float
    norms: int = 0
    left: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        taken = f"{self.norms} norms of plain convolutions taken in, " if self.norms or self.left else ""
        reasons = "; ".join(f"{count} where {reason}" for reason, count in self.left)
        left = f"{sum(count for _, count in self.left)} left ({reasons}); " if self.left else "none left; "
        return (
            f"{self.blocks} blocks fused, {self.collapsed} of them to a plain convolution; {taken}{left if taken else ''}"
            f"{self.params} -> {self.params_fused} params; largest error {self.error_float64:.1e} in float64, "
            f"{self.error_float32:.1e} in float32, of outputs up to {self.largest:.3g}"
        )


def fuse(model: nn.Module, input_size: tuple[int, int, int] | None = None) -> nn.Module:
    """A copy of `model` with each X-volution block replaced by its exact deploy twin; `model` is left as it is.

    `model` may itself be a block.

    Args:
        input_size: None copies all else unchanged. So does `timm.utils.model.reparameterize_model`, with the same
            result, but for hosts that timm re-parameterises itself (RepVGG's): to have these collapsed too, give its
            result to `fuse`. With the (C, H, W) of one image, every other Conv2d that alone feeds one BatchNorm2d
            takes it in as well, so that the latency of a plain backbone can be compared with that of a converted
            one; of timm's `BatchNormAct2d`, drop and activation stay. `norms_left` says which norms remain, and why.

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
    before, left = (len(_norms(fuse(trained))), norms_left(trained, size)) if plain else (0, [])
    return FuseReport(
        blocks=len(blocks),
        collapsed=sum(type(fused.get_submodule(name)) is nn.Conv2d for name in blocks),
        params=count_params(trained),
        params_fused=count_params(fused),
        error_float64=errors[torch.float64],
        error_float32=errors[torch.float32],
        largest=largest,
        norms=before - len(left),
        left=tuple(Counter(refusal.reason for refusal in left).most_common()),
    )


def norms_left(model: nn.Module, input_size: tuple[int, int, int]) -> list[Refusal]:
    """Each BatchNorm that `fuse(model, input_size)` leaves as it is, in model order, and why.

    A block's own norms are not among them: they always go.

    Args:
        model: before or after fusing; left as it is.
        input_size: (C, H, W) of one image.

    Raises:
        ValueError: such an image does not go through the model.
    """
    twin = fuse(model)
    calls = watch(twin, input_size)
    reasons = [Refusal(name, _fault(twin, name, calls) or "") for name in _norms(twin)]
    return [refusal for refusal in reasons if refusal.reason]


def _take_norms_in(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    calls = watch(model, input_size)
    for norm_name in [name for name in _norms(model) if _fault(model, name, calls) is None]:
        name, norm = _feeders(norm_name, model, calls)[0], model.get_submodule(norm_name)
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        plain, rest = split_norm(norm)
        weight, bias = fold_norm(conv.weight.detach(), None if conv.bias is None else conv.bias.detach(), plain)
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
        model.set_submodule(norm_name, rest)
        keep_from_reparameterising(model, norm_name)


def _norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def _feeders(norm_name: str, model: nn.Module, calls: dict[str, Call]) -> list[str]:
    """Names of what gives the tensor that the norm takes, without those that hand it on as it is (`nn.Identity`)."""
    names = [name for name, call in calls.items() if call.gave is calls[norm_name].took]
    return [name for name in names if not isinstance(model.get_submodule(name), nn.Identity)]


def _fault(model: nn.Module, norm_name: str, calls: dict[str, Call]) -> str | None:
    """Why no convolution can take the norm in; None where one can."""
    norm = model.get_submodule(norm_name)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    if type(norm) not in (nn.BatchNorm2d, BatchNormAct2d):
        return f"it is a {type(norm).__name__}, not a BatchNorm2d"
    if not norm.track_running_stats or norm.running_mean is None:
        return "it keeps no running statistics"
    if norm_name not in calls:
        return "it does not run as a module in a forward pass"
    if calls[norm_name].times != 1:
        return "it runs more than once in a forward pass"
    feeders = _feeders(norm_name, model, calls)
    if not feeders:
        return "no layer's output comes straight to it"
    feeder = model.get_submodule(feeders[0])
    if type(feeder) not in _FOLDABLE:
        return f"a {type(feeder).__name__} feeds it, not a plain Conv2d"
    if len(feeders) > 1 or takers(model, feeders[0], calls) != [norm_name] or calls[feeders[0]].reads != 1:
        return "what its convolution gives is also read elsewhere"
    if calls[feeders[0]].times != 1:
        return "its convolution runs more than once in a forward pass"
    return None


def fuse_error(model: nn.Module, fused: nn.Module, x: Tensor) -> float:
    """Largest absolute difference between the outputs of two models on `x`, both in eval mode; NaN if either has one.

    Args:
        model, fused: take `x` and return one tensor of equal shapes. Their modes are restored.
        x: a batch, such as (B, C, H, W).
    """
    with at_rest(model, fused):
        return float((model(x) - fused(x)).abs().max())
