from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from xvol.branches.base import Branch, Geometry


@pytest.mark.parametrize(("kernel", "dilation", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 2), (5, 1, 2), (7, 3, 9)])
def test_same_padding(kernel: int, dilation: int, padding: int) -> None:
    geometry = Geometry(in_chs=4, out_chs=4, kernel_size=kernel, dilation=dilation)
    assert geometry.same_padding == padding
    geometry.check()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kernel_size": 2}, "kernel_size=2 is even"),
        ({"stride": 0}, "stride=0 must be a whole number of at least 1"),
        ({"in_chs": 1.5}, "in_chs=1.5 must be a whole number"),
        ({"groups": 3}, "groups=3 must divide in_chs=4 and out_chs=8"),
        ({"padding": 0}, "padding=0 does not centre the window: kernel_size=3 with dilation=1 needs padding=1"),
        ({"padding_mode": "reflect"}, "padding_mode='reflect'"),
    ],
)
def test_what_no_branch_can_stand_in_for(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Geometry(**({"in_chs": 4, "out_chs": 8} | wrong)).check()


def test_a_branch_must_say_what_it_computes() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Branch(4, 4)  # type: ignore[abstract]


class Halved(Branch):
    """`forward` alone."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW[:, :, :: self.geometry.stride, :: self.geometry.stride] / 2


class Layered(Branch):
    name = "layered"

    def __init__(self, in_chs: int, out_chs: int, *, width: int = 1, loud: bool = False, **host: Any) -> None:
        super().__init__(in_chs, out_chs, width=width, loud=loud, **host)
        self.layers = nn.Sequential(nn.Conv2d(in_chs, width, 1), nn.Sequential(nn.Conv2d(width, out_chs, 1)))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.layers(x_BCHW)


@pytest.mark.parametrize("with_static", [False, True])
def test_forward_alone_folds_by_scale_and_shift(with_static: bool, randomise: Callable[[nn.Module], nn.Module]) -> None:
    branch = Halved(4, 4, stride=2)
    norm = randomise(branch.new_norm()).eval()
    x = torch.randn(2, 4, 5, 5)
    folded = branch.fold(norm, branch.geometry if with_static else None)
    assert folded.dynamic is not None
    y = folded.dynamic(x)
    if folded.static is not None:
        y = y + nn.functional.conv2d(x, *folded.static, stride=2, padding=branch.geometry.padding or 0)
    assert (folded.static is not None) == with_static
    torch.testing.assert_close(y, norm(branch(x)))
    branch.reset_parameters()  # nothing to draw
    assert not branch.has_dynamic_kernel


def test_layers_are_drawn_anew_as_they_do_it_themselves() -> None:
    torch.manual_seed(3)
    first = Layered(4, 4, width=2)
    second = Layered(4, 4, width=2)
    torch.manual_seed(3)
    second.reset_parameters()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    first.layers[1].tap = nn.Parameter(torch.ones(1))
    with pytest.raises(
        NotImplementedError, match="Sequential: nothing says how 'tap' is drawn; write reset_parameters"
    ):
        first.reset_parameters()


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [("width", 1.5, "a whole number"), ("width", True, "a whole"), ("loud", 1, "True or")],
)
def test_options_are_held_to_the_type_of_their_default(option: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"^layered: {option}={value!r} must be {allowed}"):
        Layered(4, 4, **{option: value})  # type: ignore[arg-type]
