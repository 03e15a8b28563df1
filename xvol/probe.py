"""One image through a model to learn its sizes and what feeds what: eval mode, no gradients, every mode restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass
class Call:
    """What one forward pass showed of a module. Holding the tensors keeps their identities apart.

    Attributes:
        took, gave: of its first run.
        times: how often it ran.
        reads: how many of torch's operations took what it gave, inside of modules or between them.
    """

    took: Tensor
    gave: Tensor
    times: int = 1
    reads: int = 0


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


class _Readers(TorchDispatchMode):
    """Counts the operations that take one of the tensors it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, Tensor) and id(given) in self.reads:
                self.reads[id(given)] += 1
        return func(*args, **(kwargs or {}))


def watch(model: nn.Module, input_size: tuple[int, int, int]) -> dict[str, Call]:
    """Record, by name, what each leaf module and each norm takes and gives on one blank image, and how often it runs.

    Norms that hold an activation, such as timm's `BatchNormAct2d`, are no leaves and are recorded too.

    Raises:
        ValueError: the image does not go through the model.
    """
    calls: dict[str, Call] = {}
    readers = _Readers()

    def watcher(fqn: str) -> Any:
        def record(_: nn.Module, took: tuple[Any, ...], gave: Any) -> None:
            if fqn in calls:
                calls[fqn].times += 1
            elif took and isinstance(took[0], Tensor) and isinstance(gave, Tensor):
                calls[fqn] = Call(took[0], gave)
                readers.reads.setdefault(id(gave), 0)

        return record

    hooks = [
        module.register_forward_hook(watcher(fqn))
        for fqn, module in model.named_modules()
        if next(module.children(), None) is None or isinstance(module, _NORMS)
    ]
    try:
        with readers:
            run_blank_image(model, input_size)
    finally:
        for hook in hooks:
            hook.remove()
    for call in calls.values():
        call.reads = readers.reads[id(call.gave)]
    return calls


def takers(model: nn.Module, fqn: str, calls: dict[str, Call]) -> list[str]:
    """Names of the modules that take what `fqn` gives, without those that hand it on as it is (`nn.Identity`)."""
    names = [name for name, call in calls.items() if call.took is calls[fqn].gave]
    return [name for name in names if not isinstance(model.get_submodule(name), nn.Identity)]
