import pytest
import torch
from torch import nn

from xvol.branches.base import Geometry
from xvol.deploy_form import FusedXVolution2d, add_to, as_conv, refuse_dynamic, refuse_other_form


def test_a_kernel_of_any_size_keeps_the_geometry() -> None:
    geometry = Geometry(in_chs=4, out_chs=6, kernel_size=3, stride=2, dilation=2, groups=2)
    small, large = (as_conv((torch.randn(6, 2, size, size), torch.randn(6)), geometry) for size in (3, 5))
    x = torch.randn(1, 4, 9, 11)
    assert small(x).shape == large(x).shape == (1, 6, 5, 6)
    assert (small.stride, small.dilation, small.groups) == ((2, 2), (2, 2), 2)


def test_the_parts_are_summed() -> None:
    first, second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1)
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(FusedXVolution2d(first, [second])(x), first(x) + second(x))
    assert torch.equal(FusedXVolution2d(None, [second])(x), second(x))


def test_the_input_is_left_as_it_is() -> None:
    """Where no convolution makes a tensor of its own, the sum does: a branch may give back what it was given."""
    x = torch.randn(1, 3, 4, 4)
    before = x.clone()
    assert torch.equal(FusedXVolution2d(None, [nn.Identity(), nn.Identity()])(x), 2 * before)
    assert torch.equal(x, before)


def test_a_sum_takes_the_memory_of_its_first_term_but_never_narrows() -> None:
    first, wide = torch.ones(2, dtype=torch.float16), torch.full((2,), 1 + 2**-20)
    assert add_to(first, [torch.ones(2, dtype=torch.float16)]) is first
    assert torch.equal(add_to(torch.zeros(2, dtype=torch.float16), [wide]), wide)


def test_what_is_silent_is_not_refused() -> None:
    static, loud, silent = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    nn.init.zeros_(silent.weight)
    nn.init.zeros_(silent.bias)
    refuse_dynamic({"pssa": silent}, static)
    with pytest.raises(ValueError, match=r"images 'gap' gives up to [\d.]+, the static"):
        refuse_dynamic({"pssa": silent, "gap": loud}, static)


def test_a_state_dict_of_the_other_form() -> None:
    refuse_other_form("deploy", {"a.static.weight": 0}, "a.")
    with pytest.raises(RuntimeError, match="holds the train form"):
        refuse_other_form("deploy", {"a.branches.conv.conv.weight": 0}, "a.")
