"""One image through a model to learn its sizes: eval mode, no gradients, and every mode as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["at_rest", "run_blank_image"]


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
