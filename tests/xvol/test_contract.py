"""What every registered branch must keep: a branch that passes may be placed, trained, fused and counted."""

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from xvol import branch_class, branch_names, branch_options
from xvol.block import XVolution2d
from xvol.branches.base import Branch, Folded, Geometry
from xvol.branches.norm import Norm
from xvol.reference import apply_dynamic_kernel, apply_sample_kernel
from xvol.spec import BlockSpec

PLAIN = {"in_chs": 8, "out_chs": 8}
GEOMETRIES = [
    PLAIN,
    {"in_chs": 4, "out_chs": 6, "stride": 2},
    {"in_chs": 8, "out_chs": 4, "groups": 4, "dilation": 2},
    {"in_chs": 6, "out_chs": 4, "groups": 2, "kernel_size": 5, "stride": 3},
    {"in_chs": 8, "out_chs": 8, "groups": 2, "dilation": 2, "stride": 2},
]
SIZES = [(1, 1), (1, 4), (5, 3), (6, 7)]
# Values that each option is tried at beside its default; a new branch's options are tried at their defaults alone.
VALUES = {
    "kernel": [1, 5],
    "width_ratio": [0.25],
    "rank": [3],
    "embed_ratio": [0.25],
    "shift": [2, 3],
    "directions": [4, 9],
    "border": ["replicate", "reflect"],
    "q_bias": [True],
    "heads": [2, None],
    "qkv_bias": [True],
    "block_size": [4],
    "halo_size": [1],
    "qk_ratio": [0.5],
    "feat_size": [8],
    "window": [3],
    "reduction": [2],
    "group_chs": [4],
    "mix_kernel": [3],
    "norm": ["none"],
    "value_ratio": [0.5],
    "position": [True],
}


def variants() -> Iterator[tuple[str, dict[str, object]]]:
    """Each branch at its defaults, with each option changed alone, and with the first changes all together."""
    for name in branch_names():
        yield name, {}
        tried = [(option, value) for option in branch_options(name) for value in VALUES.get(option, [])]
        if len(branch_options(name)) > 1:
            tried = [change for change in tried if accepts(name, dict([change]), PLAIN)]
            together = dict(reversed(tried))  # the first of each option's values
            if accepts(name, together, PLAIN):
                yield name, together
        yield from ((name, {option: value}) for option, value in tried)


def cases() -> Iterator[tuple[str, dict[str, object], dict[str, int]]]:
    """Variants at geometries they accept: all of them for the first two of a branch, two each for the others."""
    for number, (name, options) in enumerate(variants()):
        taken = [geometry for geometry in GEOMETRIES if accepts(name, options, geometry)]
        if len(options) == 1:
            taken = [taken[number % len(taken)], taken[(number + 1) % len(taken)]][: len(taken)]
        yield from ((name, options, geometry) for geometry in taken)


def accepts(name: str, options: dict[str, object], geometry: dict[str, int]) -> bool:
    try:
        branch_class(name).check(Geometry(**geometry), **(branch_options(name) | options))
    except ValueError:
        return False
    return True


def build(name: str, options: dict[str, object], geometry: dict[str, int], **factory: object) -> Branch:
    shape = {key: value for key, value in geometry.items() if key not in ("in_chs", "out_chs")}
    return branch_class(name)(geometry["in_chs"], geometry["out_chs"], **shape, **options, **factory)


def lived(branch: Branch, randomise: Callable[[nn.Module], nn.Module]) -> Norm:
    """The norm that the branch asks for, its own parameters and the branch's as after training."""
    randomise(branch)
    norm = randomise(branch.new_norm(dtype=torch.float64)).eval()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


every_variant = pytest.mark.parametrize(("name", "options"), list(variants()), ids=str)
every_case = pytest.mark.parametrize(("name", "options", "geometry"), list(cases()), ids=str)
every_branch = pytest.mark.parametrize("name", branch_names())


@every_branch
def test_stands_in_for_the_plain_convolution_and_refuses_by_name(name: str) -> None:
    assert accepts(name, {}, PLAIN)
    for geometry in GEOMETRIES:
        if not accepts(name, {}, geometry):
            with pytest.raises(ValueError, match=f"^{name}: .*: ") as refusal:
                build(name, {}, geometry)
            assert "None" not in str(refusal.value)


@every_case
def test_shape_is_that_of_the_host(name: str, options: dict[str, object], geometry: dict[str, int]) -> None:
    branch = build(name, options, geometry).eval()
    on_meta = build(name, options, geometry, device="meta").eval()
    keys = {"in_chs": "in_channels", "out_chs": "out_channels"}
    host = nn.Conv2d(
        **{"kernel_size": 3} | {keys.get(key, key): value for key, value in geometry.items()},
        padding=branch.geometry.same_padding,
    )
    assert all(parameter.dim() <= 4 for parameter in branch.parameters()), "5-D ones break channels_last"
    for size in SIZES:
        x = torch.randn(2, geometry["in_chs"], *size)
        y = branch(x)
        assert y.shape == host(x).shape
        assert y.isfinite().all()
        assert on_meta(x.to("meta")).shape == y.shape


@every_case
def test_folds_exactly(
    name: str,
    options: dict[str, object],
    geometry: dict[str, int],
    randomise: Callable[[nn.Module], nn.Module],
) -> None:
    """With and without a static convolution to fold into, and leaving branch and norm as they were."""
    branch = build(name, options, geometry, dtype=torch.float64).eval()
    norm = lived(branch, randomise)
    before = copy.deepcopy(branch.state_dict())
    images = [torch.randn(2, geometry["in_chs"], *size, dtype=torch.float64) for size in SIZES]
    expected = [norm(branch(x)) for x in images]
    for static in (None, branch.geometry):
        folded = branch.fold(norm, static)
        for x, y in zip(images, expected, strict=True):
            torch.testing.assert_close(apply_folded(folded, branch.geometry, x), y, rtol=1e-10, atol=1e-10)
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


@every_case
def test_kernels_are_the_branch(
    name: str,
    options: dict[str, object],
    geometry: dict[str, int],
    randomise: Callable[[nn.Module], nn.Module],
) -> None:
    """The dynamic kernel and the kernel for each sample, where the branch says that it has them; else it refuses."""
    branch = randomise(build(name, options, geometry, dtype=torch.float64)).eval()
    shape = {"stride": branch.geometry.stride, "groups": branch.geometry.groups}
    for size in SIZES:
        x = torch.randn(2, geometry["in_chs"], *size, dtype=torch.float64)
        for kind, apply in (("dynamic", apply_dynamic_kernel), ("sample", apply_sample_kernel)):
            give = getattr(branch, f"{kind}_kernel")
            if getattr(branch, f"has_{kind}_kernel"):
                torch.testing.assert_close(apply(x, *give(x), **shape), branch(x), rtol=1e-10, atol=1e-10)
            else:
                with pytest.raises(ValueError, match=f"has no {kind} kernel: "):
                    give(x)


@every_variant
def test_gradients(name: str, options: dict[str, object]) -> None:
    small = {"in_chs": 2, "out_chs": 2}
    geometry = small if accepts(name, options, small) else PLAIN
    branch = build(name, options, geometry, dtype=torch.float64).eval()
    for size in ((1, 1), (3, 2)):
        x = torch.randn(1, geometry["in_chs"], *size, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(branch, (x,))


@every_variant
def test_every_parameter_is_trained_under_autocast_and_any_memory_format(name: str, options: dict[str, object]) -> None:
    branch = build(name, options, PLAIN).eval().to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    y = branch(x)
    torch.testing.assert_close(branch(x.to(memory_format=torch.channels_last)), y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = branch(x)
    assert low.dtype == (torch.bfloat16 if list(branch.parameters()) else torch.float32)
    assert (low.float() - y).norm() < 0.05 * y.norm()
    (low.float() * torch.randn_like(y)).sum().backward()
    for parameter in (x, *branch.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


@every_variant
def test_copies_pickles_and_state_dicts_hold_everything(name: str, options: dict[str, object]) -> None:
    branch = build(name, options, PLAIN)
    x = torch.randn(2, 8, 5, 5)
    branch(x)
    other = build(name, options, PLAIN)
    other.load_state_dict(branch.state_dict())
    branch.eval()
    for twin in (copy.deepcopy(branch), pickle.loads(pickle.dumps(branch)), other):
        assert torch.equal(twin.eval()(x), branch(x))


@every_variant
def test_reset_draws_every_parameter_from_the_generator(name: str, options: dict[str, object]) -> None:
    """And a branch built under a seed is what a reset under that seed makes of any other."""
    torch.manual_seed(5)
    first = build(name, options, PLAIN)
    branch = build(name, options, PLAIN)
    for parameter in branch.parameters():
        nn.init.constant_(parameter, 7.0)
    for reset in (False, True):
        torch.manual_seed(5)
        again = build(name, options, PLAIN)
        assert all(torch.equal(one, two) for one, two in zip(first.parameters(), again.parameters(), strict=True))
        if reset:
            torch.manual_seed(6)
            again.reset_parameters()
            torch.manual_seed(6)
            branch.reset_parameters()
    assert not any((parameter == 7.0).any() for parameter in branch.parameters())
    assert all(torch.equal(one, two) for one, two in zip(branch.parameters(), again.parameters(), strict=True))


@every_branch
def test_options_are_checked_before_anything_is_built(name: str) -> None:
    cls = branch_class(name)
    with pytest.raises(ValueError, match="does not centre"):
        cls.check(Geometry(**PLAIN, padding=0), **branch_options(name))
    with pytest.raises(ValueError, match="is even"):
        cls(8, 8, kernel_size=2)
    for option in branch_options(name):
        with pytest.raises(ValueError, match=f"^{name}: {option}='wrong' must be "):
            cls.check_options(**branch_options(name) | {option: "wrong"})


@every_branch
def test_an_unknown_argument_is_refused_and_not_swallowed(name: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'loud'"):
        branch_class(name)(8, 8, loud=True)


@every_branch
def test_costs_are_whole_numbers_in_proportion_to_the_pixels(name: str) -> None:
    branch = build(name, {}, PLAIN)
    one = branch.elementwise_macs((1, 1))
    assert isinstance(one, int)
    assert branch.elementwise_macs((3, 5)) == 15 * one


@every_branch
def test_stands_alone_in_a_block(name: str, randomise: Callable[[nn.Module], nn.Module]) -> None:
    block = randomise(XVolution2d(8, 8, stride=2, spec=BlockSpec((name,)), dtype=torch.float64)).eval()
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(block.fuse()(x), block(x), rtol=1e-10, atol=1e-10)
