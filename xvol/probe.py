"""What one image through a model shows, at rest: sizes, what feeds what, its multiply-accumulates (MACs), how much its branches add.

B = batch, C = channels, H, W = height, width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from xvol.block import CONV, XVolution2d
from xvol.branches.base import Branch
from xvol.deploy_form import FusedXVolution2d
from xvol.hosts import FROZEN

_NORMS = (nn.modules.batchnorm._BatchNorm, *FROZEN, nn.GroupNorm, nn.LayerNorm)


@dataclass
class Call:
    """What one forward pass showed of a module. Holding the tensors keeps their identities apart.

    Attributes:
        took, gave: of its first run.
        times: how often it ran.
        pixels: of the maps that it gave, in all its runs.
        reads: how many of torch's operations took what it gave, inside of modules or between them.
    """

    took: Tensor
    gave: Tensor
    times: int = 1
    reads: int = 0
    pixels: int = 0


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

    ValueError where `input_size` is no triple of positive numbers, or such an image does not go through the model.
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
    """
    calls: dict[str, Call] = {}
    readers = _Readers()

    def watcher(fqn: str) -> Any:
        def record(_: nn.Module, took: tuple[Any, ...], gave: Any) -> None:
            if fqn in calls:
                calls[fqn].times += 1
                calls[fqn].pixels += _pixels(gave)
            elif took and isinstance(took[0], Tensor) and isinstance(gave, Tensor):
                calls[fqn] = Call(took[0], gave, pixels=_pixels(gave))
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


def _pixels(gave: Any) -> int:
    return math.prod(gave.shape[2:]) if isinstance(gave, Tensor) else 0


def takers(model: nn.Module, fqn: str, calls: dict[str, Call]) -> list[str]:
    """Names of the modules that take what `fqn` gives, without those that hand it on as it is (`nn.Identity`)."""
    names = [name for name, call in calls.items() if call.took is calls[fqn].gave]
    return [name for name in names if not isinstance(model.get_submodule(name), nn.Identity)]


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


# torch counts the attention kernels of accelerators, and not that of the CPU.
_UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


def count_params(model: nn.Module) -> int:
    """Number of parameters, shared ones once; buffers, such as running statistics, are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """MACs of one image in eval mode: convolutions, matrix products, and the branches' element-wise products.

    Norms, activations, pooling and additions count nothing, as is the custom. ValueError as `run_blank_image`.
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
    Nothing is changed, and no random number drawn. By the name of each block; None where it has no convolution, nothing
    beside it, or one that gives a constant.
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


def plain_names(model: nn.Module) -> dict[str, str]:
    """Where the plain model that `model` was converted from has what both have: names of their state dicts, ours to its.

    A block's own branches have no place there, and a convolution that no block kept has none here. Shapes are equal, but for a
    conv branch with a kernel of another size than its host's.
    """
    names = {name: name for name in model.state_dict()}
    for path, block in model.named_modules():
        if not isinstance(block, XVolution2d) or block.host is None:
            continue
        conv, norm = block.host
        prefix = path.removesuffix(conv)
        places = {f"{path}.branches.{CONV}.conv.": f"{path}."}
        if norm is not None:
            places[f"{path}.norms.{CONV}."] = f"{prefix}{norm}."
        for name in [name for name in names if name.startswith(f"{path}.")]:
            del names[name]
            for ours, theirs in places.items():
                if name.startswith(ours):
                    names[name] = theirs + name.removeprefix(ours)
    return names
