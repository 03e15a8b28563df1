"""One image through a model to learn its sizes and what feeds what: eval mode, no gradients, every mode restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Call", "at_rest", "norm_after", "run_blank_image", "watch"]


@dataclass
class Call:
    """What one forward pass showed of a leaf module. Holding the tensors keeps their identities apart."""

    took: Tensor
    gave: Tensor
    times: int = 1


@contextmanager
def at_rest(*models: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; each module's own training flag is restored after, frozen norms included."""
    flags = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


def run_blank_image(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Run `model`, at rest, on one image of zeros, (1, C, H, W), of its own device and dtype.

    Args:
        model: any model that takes a batch of images.
        input_size: (C, H, W).

    Raises:
        ValueError: `input_size` is no triple of positive numbers, or such an image does not go through the model.
    """
    size = tuple(input_size)
    if len(size) != 3 or any(isinstance(edge, bool) or not isinstance(edge, int) or edge < 1 for edge in size):
        raise ValueError(
            f"input_size={input_size!r} must be (channels, height, width) of one image, such as (3, 224, 224)"
        )
    weight = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), torch.empty(0))
    image_BCHW = torch.zeros(1, *size, device=weight.device, dtype=weight.dtype)
    with at_rest(model):
        try:
            model(image_BCHW)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"an image of input_size={size} (channels, height, width) does not go through {type(model).__name__}: "
                f"{error}. Give the size of the images that the model is meant for"
            ) from error


def watch(model: nn.Module, input_size: tuple[int, int, int]) -> dict[str, Call]:
    """Record, by name, what each leaf module takes and gives on one blank image, and how often it runs.

    Raises:
        ValueError: the image does not go through the model.
    """
    calls: dict[str, Call] = {}

    def watcher(fqn: str) -> Any:
        def record(_: nn.Module, took: tuple[Any, ...], gave: Any) -> None:
            if fqn in calls:
                calls[fqn].times += 1
            elif took and isinstance(took[0], Tensor) and isinstance(gave, Tensor):
                calls[fqn] = Call(took[0], gave)

        return record

    hooks = [
        module.register_forward_hook(watcher(fqn))
        for fqn, module in model.named_modules()
        if next(module.children(), None) is None
    ]
    try:
        run_blank_image(model, input_size)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def norm_after(model: nn.Module, fqn: str, calls: dict[str, Call]) -> str | None:
    """Name of the one module that takes what `fqn` gives, if that is a plain BatchNorm2d with statistics, else None."""
    takers = [name for name, call in calls.items() if call.took is calls[fqn].gave]
    if len(takers) != 1 or calls[fqn].times != 1 or calls[takers[0]].times != 1:
        return None
    norm = model.get_submodule(takers[0])
    plain = type(norm) is nn.BatchNorm2d and norm.track_running_stats and norm.affine
    return takers[0] if plain else None
