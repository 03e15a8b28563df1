"""What every branch must keep, as checks that assert: a branch that passes may be placed, trained, fused and counted.

    from xvol.testing import check_branch
    check_branch("mine")

runs them all. Each check can be called alone, for instance by a parametrised test; none needs more than torch and timm.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from timm.layers.norm_act import FrozenBatchNorm2d
from torch import Tensor, nn
from torch.nn import functional

from xvol.block import CONV, BlockSpec, XVolution2d
from xvol.branches import branch_class, branch_options
from xvol.branches.base import Branch, Folded, Geometry
from xvol.fold import Norm

Options = dict[str, Any]
Shape = dict[str, Any]

PLAIN: Shape = {"in_chs": 8, "out_chs": 8}
GEOMETRIES: list[Shape] = [
    PLAIN,
    {"in_chs": 4, "out_chs": 6, "stride": 2},
    {"in_chs": 8, "out_chs": 4, "groups": 4, "dilation": 2},
    {"in_chs": 6, "out_chs": 4, "groups": 2, "kernel_size": 5, "stride": 3},
    {"in_chs": 8, "out_chs": 8, "groups": 2, "dilation": 2, "stride": 2},
]
SIZES = [(1, 1), (1, 4), (5, 3), (6, 7)]
EXACT = 1e-10  # in float64


def check_branch(name: str, values: Mapping[str, Sequence[Any]] | None = None) -> None:
    """Run every check on the branch registered as `name`; AssertionError says what it does not keep, with which options, where.

    `values` has for each option what it is to be tried at beside its default; others are tried at their default alone.
    """
    by_name = (check_geometries, check_options, check_unknown_argument, check_costs)
    by_options = (check_gradients, check_training, check_copies, check_reset)
    tried: list[tuple[Any, tuple[Any, ...]]] = [(check, (name,)) for check in by_name]
    tried += [(check, (name, options)) for options in variants(name, values) for check in by_options]
    tried += [
        (check, (name, options, shape))
        for options, shape in cases(name, values)
        for check in (check_shape, check_fold, check_kernels)
    ]
    tried += [(check, (name,)) for check in (check_in_a_block, check_beside_a_frozen_norm)]
    for check, arguments in tried:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            try:
                check(*arguments)
            except Exception as error:
                given = ", ".join(map(repr, arguments))
                raise AssertionError(f"{check.__name__}({given}): {type(error).__name__}: {error}") from error


def variants(name: str, values: Mapping[str, Sequence[Any]] | None = None) -> Iterator[Options]:
    """The branch at its defaults, with each option changed alone, and with the first changes all together."""
    yield {}
    tried = [(option, value) for option in branch_options(name) for value in (values or {}).get(option, [])]
    if len(branch_options(name)) > 1:
        tried = [change for change in tried if accepts(name, dict([change]), PLAIN)]
        together = dict(reversed(tried))  # the first of each option's values
        if together and accepts(name, together, PLAIN):
            yield together
    yield from ({option: value} for option, value in tried)


def cases(name: str, values: Mapping[str, Sequence[Any]] | None = None) -> Iterator[tuple[Options, Shape]]:
    """Variants at geometries they accept: all of them for the first two of the branch, two each for the others."""
    for number, options in enumerate(variants(name, values)):
        taken = [shape for shape in GEOMETRIES if accepts(name, options, shape)]
        if len(options) == 1:
            taken = [taken[number % len(taken)], taken[(number + 1) % len(taken)]][: len(taken)]
        yield from ((options, shape) for shape in taken)


def accepts(name: str, options: Options, shape: Shape) -> bool:
    """Whether the branch takes these options in this geometry."""
    try:
        branch_class(name).check(Geometry(**shape), **(branch_options(name) | options))
    except ValueError:
        return False
    return True


def randomise(module: nn.Module) -> nn.Module:
    """Give every norm statistics and an affine part such as training leaves, and every bias its own value."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.5)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
        elif isinstance(part, nn.Conv2d) and part.bias is not None:
            nn.init.normal_(part.bias)
    return module


def apply_dynamic_kernel(x_BCHW: Tensor, kernel_BHWOIkk: Tensor, bias_O: Tensor, *, stride: int, groups: int) -> Tensor:
    """Apply to each output pixel its own kernel, centred, with a zero border and dilation 1: (B, I, H, W) -> (B, O, H', W').

    `kernel_BHWOIkk` is (B, H', W', O, I / g, k, k), `bias_O` (O,).
    """
    batch, height, width, out_chs, _, size, _ = kernel_BHWOIkk.shape
    patches = functional.unfold(x_BCHW, size, padding=size // 2, stride=stride)
    patches_BgIkkHW = patches.view(batch, groups, -1, size, size, height, width)
    kernel = kernel_BHWOIkk.unflatten(3, (groups, out_chs // groups))
    y_BgOHW = torch.einsum("bhwgoimn,bgimnhw->bgohw", kernel, patches_BgIkkHW)
    return y_BgOHW.flatten(1, 2) + bias_O[:, None, None]


def apply_sample_kernel(x_BCHW: Tensor, kernel_BOIkk: Tensor, bias_O: Tensor, *, stride: int, groups: int) -> Tensor:
    """Apply to each sample its own convolution, centred, with a zero border and dilation 1: (B, I, H, W) -> (B, O, H', W').

    `kernel_BOIkk` is (B, O, I / g, k, k), `bias_O` (O,).
    """
    padding = kernel_BOIkk.shape[-1] // 2
    samples = zip(x_BCHW.split(1), kernel_BOIkk, strict=True)
    return torch.cat([functional.conv2d(x, kernel, bias_O, stride, padding, 1, groups) for x, kernel in samples])


def check_geometries(name: str) -> None:
    """It stands in for a plain convolution, and refuses other hosts by its name, with a reason."""
    assert accepts(name, {}, PLAIN), f"{name} refuses a plain 3x3 convolution of 8 channels"
    for shape in GEOMETRIES:
        if not accepts(name, {}, shape):
            said = _refusal(ValueError, lambda shape=shape: _build(name, {}, shape))
            right = said.startswith(f"{name}: ") and ": " in said.removeprefix(f"{name}: ") and "None" not in said
            assert right, f"a refusal reads '{name}: WHAT WAS GIVEN: WHY', this one: {said}"


def check_shape(name: str, options: Options, shape: Shape) -> None:
    """It gives maps of its host's shape, of numbers, and none of its parameters has five dimensions."""
    branch = _build(name, options, shape).eval()
    on_meta = _build(name, options, shape, device="meta").eval()
    keys = {"in_chs": "in_channels", "out_chs": "out_channels"}
    geometry: dict[str, Any] = {"kernel_size": 3} | {keys.get(key, key): value for key, value in shape.items()}
    host = nn.Conv2d(**geometry, padding=branch.geometry.same_padding)
    assert all(parameter.dim() <= 4 for parameter in branch.parameters()), "5-D parameters break channels_last"
    for size in SIZES:
        x = torch.randn(2, shape["in_chs"], *size)
        y, expected = branch(x), host(x).shape
        assert y.shape == expected, f"{tuple(x.shape)} gives {tuple(y.shape)}, the host {tuple(expected)}"
        assert y.isfinite().all(), f"{tuple(x.shape)} gives infinities or NaN"
        assert on_meta(x.to("meta")).shape == expected, "on the meta device the shape is another"


def check_fold(name: str, options: Options, shape: Shape) -> None:
    """It folds exactly, with and without a static convolution to fold into, and is left as it was."""
    branch = _build(name, options, shape, dtype=torch.float64).eval()
    norm = _lived(branch)
    before = copy.deepcopy(branch.state_dict())
    images = [torch.randn(2, shape["in_chs"], *size, dtype=torch.float64) for size in SIZES]
    expected = [norm(branch(x)) for x in images]
    for static in (None, branch.geometry):
        folded = branch.fold(norm, static)
        for x, y in zip(images, expected, strict=True):
            torch.testing.assert_close(_apply(folded, branch.geometry, x), y, rtol=EXACT, atol=EXACT)
    same = all(torch.equal(value, before[key]) for key, value in branch.state_dict().items())
    assert same, "fold changes the branch that it folds"


def check_kernels(name: str, options: Options, shape: Shape) -> None:
    """It is the convolution that it says it is at each pixel or for each sample; where it is none, it says so."""
    branch = randomise(_build(name, options, shape, dtype=torch.float64)).eval()
    assert isinstance(branch, Branch)
    host: dict[str, Any] = {"stride": branch.geometry.stride, "groups": branch.geometry.groups}
    for size in SIZES:
        x = torch.randn(2, shape["in_chs"], *size, dtype=torch.float64)
        for kind, apply in (("dynamic", apply_dynamic_kernel), ("sample", apply_sample_kernel)):
            give = getattr(branch, f"{kind}_kernel")
            if getattr(branch, f"has_{kind}_kernel"):
                torch.testing.assert_close(apply(x, *give(x), **host), branch(x), rtol=EXACT, atol=EXACT)
            else:
                said = _refusal(ValueError, lambda give=give, x=x: give(x))
                assert f"has no {kind} kernel: " in said, f"a branch without {kind} kernel says so, not: {said}"


def check_gradients(name: str, options: Options) -> None:
    """Its gradient by autograd is that by finite differences."""
    small = {"in_chs": 2, "out_chs": 2}
    shape = small if accepts(name, options, small) else PLAIN
    branch = _build(name, options, shape, dtype=torch.float64).eval()
    for size in ((1, 1), (3, 2)):
        x = torch.randn(1, shape["in_chs"], *size, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(branch, (x,))


def check_training(name: str, options: Options) -> None:
    """Every parameter gets a gradient under autocast, and the memory format of the input changes no result."""
    branch = _build(name, options, PLAIN).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    y = branch(x)
    torch.testing.assert_close(branch(x.to(memory_format=torch.channels_last)), y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = branch(x)
    expected = torch.bfloat16 if list(branch.parameters()) else torch.float32
    assert low.dtype == expected, f"under autocast it gives {low.dtype}, not {expected}"
    assert (low.float() - y).norm() < 0.05 * y.norm(), "under autocast it gives something else"
    (low.float() * torch.randn_like(y)).sum().backward()
    for key, parameter in (("the input", x), *branch.named_parameters()):
        learns = parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any()
        assert learns, f"{key} gets no gradient, or none that is finite"


def check_copies(name: str, options: Options) -> None:
    """A copy, a pickle and a state dict hold all of it."""
    branch = _build(name, options, PLAIN)
    x = torch.randn(2, 8, 5, 5)
    branch(x)
    other = _build(name, options, PLAIN)
    other.load_state_dict(branch.state_dict())
    branch.eval()
    twins = {"deepcopy": copy.deepcopy(branch), "pickle": pickle.loads(pickle.dumps(branch)), "state_dict": other}
    for how, twin in twins.items():
        assert torch.equal(twin.eval()(x), branch(x)), f"a twin by {how} computes something else"


def check_reset(name: str, options: Options) -> None:
    """`reset_parameters` draws every parameter, from torch's generator, as the constructor does."""
    torch.manual_seed(5)
    first = _build(name, options, PLAIN)
    branch = _build(name, options, PLAIN)
    for parameter in branch.parameters():
        nn.init.constant_(parameter, 7.0)
    torch.manual_seed(5)
    again = _build(name, options, PLAIN)
    assert _equal(first, again), "two branches built under one seed differ"
    for each in (again, branch):
        torch.manual_seed(6)
        each.reset_parameters()
    left = [key for key, parameter in branch.named_parameters() if (parameter == 7.0).any()]
    assert not left, f"reset_parameters does not draw {', '.join(left)}"
    assert _equal(branch, again), "reset_parameters under one seed gives two results"


def check_options(name: str) -> None:
    """Wrong geometries and options are refused before anything is built, by the branch's name."""
    cls, defaults = branch_class(name), branch_options(name)
    said = _refusal(ValueError, lambda: cls.check(Geometry(**PLAIN, padding=0), **defaults))
    assert "does not centre" in said, "check passes the geometry on to Branch.check"
    assert "is even" in _refusal(ValueError, lambda: cls(8, 8, kernel_size=2))
    for option in defaults:
        wrong = defaults | {option: "wrong"}
        said = _refusal(ValueError, lambda wrong=wrong: cls.check_options(**wrong))
        expected = f"{name}: {option}='wrong' must be "
        assert said.startswith(expected), f"check_options says '{expected}...', not: {said}"


def check_unknown_argument(name: str) -> None:
    """An unknown argument is refused and not swallowed."""
    said = _refusal(TypeError, lambda: branch_class(name)(8, 8, loud=True))
    assert "unexpected keyword argument 'loud'" in said, f"the constructor takes what it does not know: {said}"


def check_costs(name: str) -> None:
    """Its element-wise costs are whole numbers, in proportion to the pixels."""
    branch = _build(name, {}, PLAIN)
    one = branch.elementwise_macs((1, 1))
    assert isinstance(one, int), f"elementwise_macs gives {one!r}, no whole number"
    assert branch.elementwise_macs((3, 5)) == 15 * one, "elementwise_macs is not in proportion to the pixels"


def check_in_a_block(name: str) -> None:
    """It can be the only branch of a block, which then fuses exactly."""
    block = randomise(XVolution2d(8, 8, stride=2, spec=BlockSpec((name,)), dtype=torch.float64)).eval()
    assert isinstance(block, XVolution2d)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(block.fuse()(x), block(x), rtol=EXACT, atol=EXACT)


def check_beside_a_frozen_norm(name: str) -> None:
    """Beside a convolution with a frozen norm, as detectors have them: training leaves the norm as it is, and the block fuses."""
    block = randomise(XVolution2d(8, 8, spec=BlockSpec(tuple({CONV: 0, name: 0}), gamma=1.0))).train()
    assert isinstance(block, XVolution2d)
    frozen = FrozenBatchNorm2d(8, eps=0.0)
    for buffer in frozen.buffers():
        nn.init.uniform_(buffer, 0.5, 2.0)
    before = copy.deepcopy(frozen.state_dict())
    block.take_over(nn.Conv2d(8, 8, 3, padding=1, bias=False), frozen)
    learner = torch.optim.SGD(block.parameters(), lr=0.01)
    block(torch.randn(4, 8, 6, 7)).square().mean().backward()
    learner.step()
    assert block.norms[CONV] is frozen, "the frozen norm was exchanged"
    same = all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
    assert same, "a step of training changes the frozen norm"
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
        x = torch.randn(2, 8, 5, 6, dtype=dtype)
        with torch.no_grad():
            y = block.eval().to(dtype)(x)
            error = float((block.fuse()(x) - y).abs().max() / y.abs().max().clamp(min=1))
        assert error <= bound, f"fused it differs by {error:.1e} in {dtype}"


def _build(name: str, options: Options, shape: Shape, **factory: Any) -> Branch:
    host: dict[str, Any] = {key: value for key, value in shape.items() if key not in ("in_chs", "out_chs")}
    return branch_class(name)(shape["in_chs"], shape["out_chs"], **host, **options, **factory)


def _lived(branch: Branch) -> Norm:
    """The norm that the branch asks for, its own parameters and the branch's as after training."""
    randomise(branch)
    norm = branch.new_norm(dtype=torch.float64)
    randomise(norm).eval()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


def _apply(folded: Folded, geometry: Geometry, x: Tensor) -> Tensor:
    terms = [] if folded.dynamic is None else [folded.dynamic(x)]
    if folded.static is not None:
        padding = geometry.dilation * (folded.static[0].shape[-1] - 1) // 2
        stride, dilation, groups = geometry.stride, geometry.dilation, geometry.groups
        terms.append(functional.conv2d(x, *folded.static, stride, padding, dilation, groups))
    assert terms, "fold gives neither a static nor a dynamic part"
    return sum(terms[1:], terms[0])


def _equal(one: Branch, other: Branch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def _refusal(kind: type[Exception], call: Any) -> str:
    """What `call` says as it raises; an AssertionError where it does not."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"nothing was refused where {kind.__name__} should be raised")
