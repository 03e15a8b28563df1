"""What every registered branch must keep: a branch that passes may be placed, trained, fused and counted."""

import copy
import itertools
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from xvol import branch_class, branch_names, branch_options
from xvol.block import XVolution2d
from xvol.branches.base import Branch, Folded, Geometry
from xvol.reference import apply_dynamic_kernel
from xvol.spec import BlockSpec

GEOMETRIES = [
    {"in_chs": 4, "out_chs": 4},
    {"in_chs": 4, "out_chs": 6, "stride": 2},
    {"in_chs": 8, "out_chs": 4, "groups": 4, "dilation": 2},
    {"in_chs": 6, "out_chs": 4, "groups": 2, "kernel_size": 5, "stride": 3},
]
SIZES = [(1, 1), (1, 4), (5, 3), (6, 7)]
# Values that each option is tried at beside its default; a new branch's options are tried at their defaults alone.
VALUES = {
    "kernel": [1, 5],
    "rank": [3],
    "embed_ratio": [0.25],
    "shift": [2, 3],
    "directions": [4, 9],
    "border": ["replicate"],
    "q_bias": [True],
}


def variants() -> Iterator[tuple[str, dict[str, object]]]:
    """Each branch at its defaults, with each option changed alone, and with the first changes all together."""
    for name in branch_names():
        yield name, {}
        options = [option for option in branch_options(name) if option in VALUES]
        yield from ((name, {option: value}) for option in options for value in VALUES[option])
        yield name, {option: VALUES[option][0] for option in options}


def build(name: str, options: dict[str, object], geometry: dict[str, int], **factory: object) -> Branch:
    shape = {key: value for key, value in geometry.items() if key not in ("in_chs", "out_chs")}
    return branch_class(name)(geometry["in_chs"], geometry["out_chs"], **shape, **options, **factory)


def lived(branch: Branch, randomise: Callable[[nn.Module], nn.Module]) -> nn.BatchNorm2d:
    randomise(branch)
    return randomise(nn.BatchNorm2d(branch.geometry.out_chs, dtype=torch.float64)).eval()


every_variant = pytest.mark.parametrize(("name", "options"), list(variants()), ids=str)
every_branch = pytest.mark.parametrize("name", branch_names())


@every_variant
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_shape_is_that_of_the_host(name: str, options: dict[str, object], geometry: dict[str, int]) -> None:
    branch = build(name, options, geometry)
    keys = {"in_chs": "in_channels", "out_chs": "out_channels"}
    host = nn.Conv2d(
        **{"kernel_size": 3} | {keys.get(key, key): value for key, value in geometry.items()},
        padding=branch.geometry.same_padding,
    )
    for size in SIZES:
        x = torch.randn(2, geometry["in_chs"], *size)
        assert branch(x).shape == host(x).shape


@every_variant
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_folds_exactly(
    name: str,
    options: dict[str, object],
    geometry: dict[str, int],
    randomise: Callable[[nn.Module], nn.Module],
) -> None:
    """With and without a static convolution to fold into, and leaving branch and norm as they were."""
    branch = build(name, options, geometry, dtype=torch.float64)
    norm = lived(branch, randomise)
    before = copy.deepcopy(branch.state_dict())
    for static, size in itertools.product((None, branch.geometry), SIZES):
        folded = branch.fold(norm, static)
        x = torch.randn(2, geometry["in_chs"], *size, dtype=torch.float64)
        torch.testing.assert_close(apply_folded(folded, branch.geometry, x), norm(branch(x)), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in branch.state_dict().items())


def apply_folded(folded: Folded, geometry: Geometry, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor | None = None
    if folded.static is not None:
        padding = geometry.dilation * (folded.static[0].shape[-1] - 1) // 2
        shape = {"stride": geometry.stride, "dilation": geometry.dilation, "groups": geometry.groups}
        y = nn.functional.conv2d(x, *folded.static, padding=padding, **shape)
    if folded.dynamic is not None:
        y = folded.dynamic(x) if y is None else y + folded.dynamic(x)
    assert y is not None
    return y


@every_variant
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_dynamic_kernel_is_the_branch(
    name: str,
    options: dict[str, object],
    geometry: dict[str, int],
    randomise: Callable[[nn.Module], nn.Module],
) -> None:
    branch = randomise(build(name, options, geometry, dtype=torch.float64))
    for size in SIZES:
        x = torch.randn(2, geometry["in_chs"], *size, dtype=torch.float64)
        shape = {"stride": branch.geometry.stride, "groups": branch.geometry.groups}
        torch.testing.assert_close(
            apply_dynamic_kernel(x, *branch.dynamic_kernel(x), **shape), branch(x), rtol=1e-10, atol=1e-10
        )


@every_variant
def test_gradients(name: str, options: dict[str, object]) -> None:
    branch = build(name, options, {"in_chs": 2, "out_chs": 2}, dtype=torch.float64)
    for size in ((1, 1), (3, 2)):
        x = torch.randn(1, 2, *size, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(branch, (x,))


@every_variant
def test_copies_pickles_and_state_dicts_hold_everything(name: str, options: dict[str, object]) -> None:
    branch = build(name, options, GEOMETRIES[2])
    other = build(name, options, GEOMETRIES[2])
    other.load_state_dict(branch.state_dict())
    x = torch.randn(2, 8, 5, 5)
    for twin in (copy.deepcopy(branch), pickle.loads(pickle.dumps(branch)), other):
        assert torch.equal(twin(x), branch(x))


@every_variant
def test_reset_draws_every_parameter_from_the_generator(name: str, options: dict[str, object]) -> None:
    branch = build(name, options, GEOMETRIES[0])
    for parameter in branch.parameters():
        nn.init.constant_(parameter, 7.0)
    torch.manual_seed(5)
    branch.reset_parameters()
    assert not any((parameter == 7.0).any() for parameter in branch.parameters())
    again = build(name, options, GEOMETRIES[0])
    torch.manual_seed(5)
    again.reset_parameters()
    assert all(torch.equal(one, two) for one, two in zip(branch.parameters(), again.parameters(), strict=True))


@every_variant
def test_half_precision_and_channels_last(name: str, options: dict[str, object]) -> None:
    branch = build(name, options, GEOMETRIES[1]).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 6, 6)
    y = branch(x)
    torch.testing.assert_close(branch(x.to(memory_format=torch.channels_last)), y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = branch(x)
    assert low.dtype == torch.bfloat16
    assert (low.float() - y).norm() < 0.05 * y.norm()
    low.float().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in branch.parameters())


@every_branch
def test_options_are_checked_before_anything_is_built(name: str) -> None:
    cls = branch_class(name)
    cls.check(Geometry(in_chs=4, out_chs=4), **branch_options(name))
    with pytest.raises(ValueError, match="does not centre"):
        cls.check(Geometry(in_chs=4, out_chs=4, padding=0), **branch_options(name))
    with pytest.raises(ValueError, match="is even"):
        cls(4, 4, kernel_size=2)


@every_branch
def test_costs_are_whole_numbers_in_proportion_to_the_pixels(name: str) -> None:
    branch = build(name, {}, GEOMETRIES[0])
    one = branch.elementwise_macs((1, 1))
    assert isinstance(one, int)
    assert branch.elementwise_macs((3, 5)) == 15 * one


@every_branch
def test_stands_alone_in_a_block(name: str, randomise: Callable[[nn.Module], nn.Module]) -> None:
    block = randomise(XVolution2d(4, 6, stride=2, spec=BlockSpec((name,)), dtype=torch.float64)).eval()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(block.fuse()(x), block(x), rtol=1e-10, atol=1e-10)
