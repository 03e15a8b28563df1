"""The deploy form of a block: one convolution with all that is static, and what depends on the input beside it.

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
from xvol.state import other_form

__all__ = ["FusedXVolution2d", "add_to", "as_conv", "refuse_dynamic", "refuse_other_form"]


class FusedXVolution2d(nn.Module):
    """The deploy form: one static convolution plus what depends on the input, without norms.

    Args:
        static: the static convolution with all biases; None in a block whose branches are all dynamic.
        dynamic: branches with their norms folded in.
    """

    form: ClassVar[str] = "deploy"

    def __init__(self, static: nn.Conv2d | None, dynamic: Iterable[Branch]) -> None:
        super().__init__()
        self.static = static
        self.dynamic = nn.ModuleList(dynamic)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same map as the block it comes from, in eval mode."""
        terms = [branch(x_BCHW) for branch in self.dynamic]
        return sum(terms[1:], terms[0]) if self.static is None else add_to(self.static(x_BCHW), terms)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        refuse_other_form(self.form, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


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


def refuse_other_form(form: str, state_dict: Mapping[str, Any], prefix: str) -> None:
    """Refuse a state dict of the other form, for the module whose keys start with `prefix`.

    Raises:
        RuntimeError: it is of the other form; the message says what to load into what.
    """
    told = other_form(form, state_dict, prefix.removesuffix("."))
    if told is not None:
        raise RuntimeError(told)


def refuse_dynamic(dynamic: Mapping[str, nn.Module], static: nn.Conv2d) -> None:
    """Refuse to call `static` the whole block where one of the `dynamic` branches gives anything.

    Raises:
        ValueError: one does; the message says by how much, and how loud the static convolution is.
    """
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
