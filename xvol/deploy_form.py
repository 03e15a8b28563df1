"""The deploy form of a block: one convolution with all that is static, and what depends on the input beside it.

A block is trained in one form and deployed in another, with other parameters: "train" is an `XVolution2d`, "deploy" a
`FusedXVolution2d` or, where all of it is static, a plain `nn.Conv2d`. A state dict shows which form it was saved from.

B = batch, C = channels, H, W = height, width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xvol.branches.base import Branch, Geometry
from xvol.fold import Kernel

FORM_KEYS = {"train": ("branches.", "norms."), "deploy": ("static.", "dynamic.")}
_CONV_KEYS = ("weight", "bias")
# by the form of the module and what the state dict is of: how to say what was found, and what to do about it
_REMEDIES = {
    ("train", "deploy"): (
        "the fused (deploy) form",
        "folding cannot be undone: load it into the fused model, xvol.fuse(model), or load the state dict of the train form",
    ),
    ("train", "conv"): (
        "one plain convolution",
        "is it of the plain backbone, load it before xvol.convert; is it of the fused form, load it into xvol.fuse(model)",
    ),
    ("deploy", "train"): (
        "the train form",
        "load it into the train form, the model as it was before xvol.fuse, and fuse that",
    ),
    ("deploy", "conv"): (
        "one plain convolution",
        "build the model with the blocks it was saved with: its own were fused to a convolution, or it had none",
    ),
    ("conv", "train"): (
        "an X-volution block in the train form",
        "load it into the train form, the model as it was before xvol.fuse (or, is the model plain, after xvol.convert)",
    ),
    ("conv", "deploy"): (
        "an X-volution block in the fused (deploy) form",
        "build the model with the blocks it was saved with: xvol.convert, then xvol.fuse",
    ),
}


class Form(nn.Module):
    """A block in one of its forms, which refuses a state dict of the other one with a RuntimeError: what to load into what."""

    form: ClassVar[str]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        if told := other_form(self.form, state_dict, prefix.removesuffix(".")):
            raise RuntimeError(told)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class FusedXVolution2d(Form):
    """The deploy form: one static convolution with all biases, if any, plus branches with their norms folded in."""

    form = "deploy"

    def __init__(self, static: nn.Conv2d | None, dynamic: Iterable[Branch]) -> None:
        super().__init__()
        self.static = static
        self.dynamic = nn.ModuleList(dynamic)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same map as the block it comes from, in eval mode."""
        terms = [branch(x_BCHW) for branch in self.dynamic]
        return sum(terms[1:], terms[0]) if self.static is None else add_to(self.static(x_BCHW), terms)


def add_to(y_BCHW: Tensor, terms: Iterable[Tensor]) -> Tensor:
    """The sum of all, in the memory of `y_BCHW`, which must be nobody else's and saved for no backward pass.

    As timm's `x += shortcut`. At large maps a new tensor costs a CPU up to a third of a convolution.
    """
    for term in terms:
        y_BCHW = y_BCHW.add_(term) if y_BCHW.dtype == term.dtype else y_BCHW + term
    return y_BCHW


def as_conv(kernel: Kernel, geometry: Geometry) -> nn.Conv2d:
    """The `nn.Conv2d` of a folded kernel and bias, of whatever size, in the place of a convolution of `geometry`."""
    weight, bias = kernel
    size = weight.shape[-1]
    conv = nn.Conv2d(
        geometry.in_chs,
        geometry.out_chs,
        size,
        stride=geometry.stride,
        padding=replace(geometry, kernel_size=size).same_padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
        device="meta",
    )
    conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
    return conv


def refuse_dynamic(dynamic: Mapping[str, nn.Module], static: nn.Conv2d) -> None:
    """Raise ValueError where one of the `dynamic` branches gives anything, by how much, so that `static` is not the whole block."""
    measured = {name: _loudness(branch, static.in_channels) for name, branch in dynamic.items()}
    loudness = {name: value for name, value in measured.items() if value != 0}
    if not loudness:
        return
    given = ", ".join(f"{name!r} gives up to {value:.3g}" for name, value in loudness.items())
    raise ValueError(
        f"the block is not one convolution, for its dynamic part depends on the input: on unit-normal images {given}, "
        f"the static convolution up to {_loudness(static, static.in_channels):.3g}. fuse() gives the exact deploy form; "
        "to_conv(strict=False) the static part alone"
    )


@torch.no_grad()
def _loudness(module: nn.Module, in_chs: int) -> float:
    """Largest absolute output on two images of unit-normal noise, in float64.

    An analytic function that is exactly 0 on noise is 0 everywhere.
    """
    twin = copy.deepcopy(module).to("cpu", torch.float64).eval()
    noise_BCHW = torch.randn(2, in_chs, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return float(twin(noise_BCHW).abs().max())


def other_form(form: str, keys: Iterable[str], fqn: str = "") -> str | None:
    """What is wrong with loading the keys of a state dict into a module of `form`, in words; None where they are of its own form.

    `form` is "train", "deploy" or "conv", `fqn` the module's name in the model; "" for the model itself.
    """
    prefix = f"{fqn}." if fqn else ""
    mine = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    found = [name for name, starts in FORM_KEYS.items() if any(key.startswith(starts) for key in mine)]
    if not found and any(key in _CONV_KEYS for key in mine):
        found = ["conv"]
    if not found or form in found:
        return None
    what, remedy = _REMEDIES[form, found[0]]
    names = {"train": "a block in the train form", "deploy": "a block in the fused (deploy) form", "conv": "a Conv2d"}
    return f"at {fqn or 'the top'!r} stands {names[form]}, the state dict holds {what}: {remedy}"


def load_state_dict(model: nn.Module, state: Mapping[str, Any], strict: bool = True) -> Any:
    """`model.load_state_dict`, refusing a state dict of the other form with a RuntimeError before anything is changed.

    A block in either form refuses by itself when `model.load_state_dict` reaches it. What this adds: blocks that were
    fused to a plain `nn.Conv2d`, which knows nothing of blocks, and that no module has been loaded when it refuses.
    """
    starts = tuple(start for group in FORM_KEYS.values() for start in group)
    blocks = [key for key in state if any(f".{start}" in f".{key}" for start in starts)]
    for fqn, module in model.named_modules():
        form = getattr(module, "form", None)
        if form in FORM_KEYS:
            told = other_form(form, state, fqn)
        elif type(module) is nn.Conv2d:
            told = other_form("conv", blocks, fqn)
        else:
            continue
        if told is not None:
            raise RuntimeError(f"{type(model).__name__}: {told}")
    return model.load_state_dict(state, strict=strict)
