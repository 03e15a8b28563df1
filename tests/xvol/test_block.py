"""The sum block: what it computes, and that its fused form and its dynamic kernel are the same map."""

import copy
import io
import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from xvol import BlockSpec, XVolution2d, branch_class, branch_names, count_params
from xvol.block import FusedXVolution2d
from xvol.fold import ScaleShift2d
from xvol.testing import apply_dynamic_kernel

Randomise = Callable[[nn.Module], nn.Module]

SPECS = [
    BlockSpec(),
    BlockSpec(("pssa",)),
    BlockSpec(("conv",)),
    BlockSpec.make(options={"pssa": {"q_bias": True, "rank": 2}}),
    BlockSpec.make(options={"pssa": {"q_bias": True, "shift": 2, "directions": 9}}),
    BlockSpec.make(options={"pssa": {"q_bias": True, "border": "replicate"}, "conv": {"kernel": 5}}),
    BlockSpec.make(options={"pssa": {"q_bias": True, "directions": 4}, "conv": {"kernel": 1}}),
    BlockSpec.make(["pssa"], {"pssa": {"q_bias": True, "embed_ratio": 0.5}}),
]
GEOMETRIES = [{}, {"stride": 2, "groups": 2}, {"dilation": 2, "stride": 3}, {"kernel_size": 5, "groups": 4}]
SIZES = [(1, 1), (1, 6), (5, 7)]

every_block = pytest.mark.parametrize(("spec", "geometry"), list(itertools.product(SPECS, GEOMETRIES)), ids=str)


@every_block
def test_fused_is_unfused(spec: BlockSpec, geometry: dict[str, int], randomise: Randomise) -> None:
    block = randomise(XVolution2d(4, 8, spec=spec, dtype=torch.float64, **geometry)).eval()
    before = copy.deepcopy(block.state_dict())
    fused = block.fuse()
    for size in SIZES:
        x = torch.randn(2, 4, *size, dtype=torch.float64)
        torch.testing.assert_close(fused(x), block(x), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in block.state_dict().items())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert not {id(parameter) for parameter in fused.parameters()} & {id(parameter) for parameter in block.parameters()}


@every_block
def test_dynamic_kernel_is_the_block(spec: BlockSpec, geometry: dict[str, int], randomise: Randomise) -> None:
    block = randomise(XVolution2d(4, 8, spec=spec, dtype=torch.float64, **geometry)).eval()
    for size in SIZES:
        x = torch.randn(2, 4, *size, dtype=torch.float64)
        shape = {"stride": block.geometry.stride, "groups": block.geometry.groups}
        torch.testing.assert_close(
            apply_dynamic_kernel(x, *block.dynamic_kernel(x), **shape), block(x), rtol=1e-10, atol=1e-10
        )


@every_block
@pytest.mark.parametrize("training", [True, False])
def test_the_sum_takes_no_new_memory_and_is_the_sum(
    spec: BlockSpec, geometry: dict[str, int], training: bool, randomise: Randomise
) -> None:
    block = randomise(XVolution2d(4, 8, spec=spec, dtype=torch.float64, **geometry)).train(training)
    x = torch.randn(3, 4, 5, 7, dtype=torch.float64, requires_grad=True)
    terms = [norm(branch(x)) for _, branch, norm in block.parts()]
    expected, found = sum(terms[1:], terms[0]), block(x)
    assert torch.equal(found, expected)
    grad, wanted = torch.randn_like(found), [x, *block.parameters()]
    grads = zip(torch.autograd.grad(found, wanted, grad), torch.autograd.grad(expected, wanted, grad), strict=True)
    assert all(torch.equal(a, b) for a, b in grads)


def test_a_static_block_fuses_to_a_plain_convolution(randomise: Randomise) -> None:
    fused = randomise(XVolution2d(4, 8, stride=2, spec=BlockSpec(("conv",)))).fuse()
    assert type(fused) is nn.Conv2d
    assert (fused.kernel_size, fused.stride, fused.padding) == ((3, 3), (2, 2), (1, 1))


def test_a_query_bias_that_fits_leaves_the_dynamic_part(randomise: Randomise) -> None:
    fits = randomise(XVolution2d(4, 4, spec=SPECS[3])).fuse()
    assert isinstance(fits, FusedXVolution2d)
    assert fits.dynamic[0].query.bias is None
    too_far = randomise(XVolution2d(4, 4, spec=SPECS[4])).fuse()
    assert too_far.dynamic[0].query.bias is not None
    assert too_far.static.kernel_size == (3, 3), "folding must not make the static convolution larger"


def test_with_a_silent_attention_the_block_is_its_convolution() -> None:
    """gamma = 0: bitwise the conv branch, in eval and in train mode."""
    block = XVolution2d(4, 8)
    alone = XVolution2d(4, 8, spec=BlockSpec(("conv",)))
    alone.load_state_dict(block.state_dict(), strict=False)
    x = torch.randn(4, 4, 6, 6)
    for training in (True, False):
        assert torch.equal(block.train(training)(x), alone.train(training)(x))


@pytest.mark.parametrize(
    ("spec", "gamma"), [(BlockSpec(), 0.0), (BlockSpec(("pssa",)), 1.0), (BlockSpec.make(gamma=0.5), 0.5)]
)
def test_initial_gamma(spec: BlockSpec, gamma: float) -> None:
    block = XVolution2d(4, 4, spec=spec)
    assert (block.norms["pssa"].weight == gamma).all()
    if "conv" in spec.branches:
        assert (block.norms["conv"].weight == 1).all()


def test_a_silent_branch_can_be_trained() -> None:
    block = XVolution2d(4, 4)
    block(torch.randn(4, 4, 6, 6)).square().mean().backward()
    assert block.norms["pssa"].weight.grad.abs().min() > 0


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_copies_hold_everything(spec: BlockSpec, randomise: Randomise) -> None:
    block = randomise(XVolution2d(4, 8, groups=2, spec=spec))
    block(torch.randn(4, 4, 5, 5))
    loaded = XVolution2d(4, 8, groups=2, spec=spec)
    loaded.load_state_dict(block.state_dict())
    stored = io.BytesIO()
    torch.save(block.state_dict(), stored)
    stored.seek(0)
    from_disk = XVolution2d(4, 8, groups=2, spec=spec)
    from_disk.load_state_dict(torch.load(stored, weights_only=True))
    x = torch.randn(2, 4, 5, 5)
    block.eval()
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block)), loaded, from_disk):
        assert torch.equal(twin.eval()(x), block(x))
    fused = block.fuse()
    assert torch.equal(pickle.loads(pickle.dumps(fused))(x), fused(x))


def test_half_precision_and_channels_last(randomise: Randomise) -> None:
    block = randomise(XVolution2d(4, 8, stride=2)).eval()
    x = torch.randn(2, 4, 9, 9)
    y = block(x)
    block.to(memory_format=torch.channels_last)
    last = block(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, y)
    assert last.is_contiguous(memory_format=torch.channels_last)
    for form in (block, block.fuse()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = form(x)
        assert (low.float() - y).norm() < 0.05 * y.norm()


def test_takes_over_host_and_norm_themselves() -> None:
    conv, norm = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)
    block = XVolution2d(4, 8)
    block.take_over(conv, norm)
    assert block.branches["conv"].conv is conv
    assert block.norms["conv"] is norm
    alone = XVolution2d(4, 8, spec=BlockSpec(("pssa",)))
    before = count_params(alone)
    alone.take_over(conv, norm)
    assert count_params(alone) == before


def test_a_norm_without_statistics_cannot_be_fused() -> None:
    block = XVolution2d(4, 4)
    block.norms["pssa"] = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(ValueError, match="track_running_stats=False"):
        block.fuse()


def test_refuses_what_a_branch_cannot_stand_in_for() -> None:
    with pytest.raises(ValueError, match="kernel_size=2 is even"):
        XVolution2d(4, 4, kernel_size=2)


def silence(block: XVolution2d, name: str, how: str) -> None:
    """Make a branch independent of the input: through its norm, or through its query."""
    if how == "gamma":
        nn.init.zeros_(block.norms[name].weight)
    else:
        nn.init.zeros_(block.branches[name].query.weight)


STATIC = [
    (BlockSpec(("conv",)), None),
    (BlockSpec.make(options={"conv": {"kernel": 5}}), "gamma"),
    (BlockSpec.make(options={"pssa": {"border": "replicate", "q_bias": True}}), "gamma"),
    (BlockSpec(), "query"),
    (BlockSpec.make(options={"pssa": {"q_bias": True, "shift": 2, "rank": 2}}), "query"),
    (BlockSpec.make(["pssa"], {"pssa": {"q_bias": True, "directions": 4}}), "query"),
    (BlockSpec.make(["pssa"]), "gamma"),
]


@pytest.mark.parametrize("geometry", [{}, {"stride": 2, "groups": 2}, {"kernel_size": 5, "groups": 4}], ids=str)
@pytest.mark.parametrize(("spec", "how"), STATIC, ids=str)
def test_a_static_block_is_one_convolution(
    spec: BlockSpec, how: str | None, geometry: dict[str, int], randomise: Randomise
) -> None:
    block = randomise(XVolution2d(4, 8, spec=spec, dtype=torch.float64, **geometry)).eval()
    if how:
        silence(block, "pssa", how)
    before = copy.deepcopy(block.state_dict())
    conv = block.to_conv()
    assert type(conv) is nn.Conv2d
    for size in SIZES:
        x = torch.randn(2, 4, *size, dtype=torch.float64)
        torch.testing.assert_close(conv(x), block(x), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in block.state_dict().items())
    assert not {id(parameter) for parameter in conv.parameters()} & {id(parameter) for parameter in block.parameters()}


def test_a_static_block_under_dilation_is_one_convolution(randomise: Randomise) -> None:
    spec = BlockSpec.make(options={"pssa": {"q_bias": True, "shift": 4}})
    block = randomise(XVolution2d(4, 8, dilation=2, spec=spec, dtype=torch.float64)).eval()
    silence(block, "pssa", "query")
    conv = block.to_conv()
    assert (conv.kernel_size, conv.dilation, conv.padding) == ((5, 5), (2, 2), (4, 4))
    x = torch.randn(2, 4, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(conv(x), block(x), rtol=1e-10, atol=1e-10)


def test_a_dynamic_block_is_refused_with_how_dynamic_it_is(randomise: Randomise) -> None:
    block = randomise(XVolution2d(4, 8, spec=BlockSpec.make(gamma=1.0)))
    with pytest.raises(ValueError, match=r"'pssa' gives up to \d\S*, the static convolution up to \d") as refusal:
        block.to_conv()
    nn.init.zeros_(block.norms["pssa"].weight)
    nn.init.constant_(block.norms["pssa"].weight[:1], 1e-30)  # as little as float32 can make of it
    with pytest.raises(ValueError, match=r"'pssa' gives up to \d\S*e-(29|3\d)"):
        block.to_conv()
    assert "strict=False" in str(refusal.value)


def test_what_no_zero_padded_window_can_hold_is_refused(randomise: Randomise) -> None:
    """A query bias alone is a convolution; with a replicated border, or between the taps, it is another one."""
    for options, dilation in (({"border": "replicate"}, 1), ({"shift": 1}, 2)):
        spec = BlockSpec.make(options={"pssa": {"q_bias": True, **options}})
        block = randomise(XVolution2d(4, 8, dilation=dilation, spec=spec))
        silence(block, "pssa", "query")
        with pytest.raises(ValueError, match="'pssa' gives up to"):
            block.to_conv()


def test_the_static_part_of_a_dynamic_block(randomise: Randomise) -> None:
    """What is left of the block where the query sees nothing."""
    block = randomise(XVolution2d(4, 8, spec=SPECS[3], dtype=torch.float64)).eval()
    static = block.to_conv(strict=False)
    silence(block, "pssa", "query")
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(static(x), block(x), rtol=1e-10, atol=1e-10)


def test_a_broken_weight_is_not_taken_for_silence() -> None:
    block = XVolution2d(4, 4, spec=BlockSpec.make(gamma=1.0))
    block.branches["pssa"].query.weight.data[0] = float("nan")
    with pytest.raises(ValueError, match="'pssa' gives up to nan"):
        block.to_conv()


@pytest.mark.parametrize("geometry", [{}, {"stride": 2, "groups": 2, "dilation": 2}], ids=str)
def test_a_static_block_is_the_same_convolution_for_each_sample(geometry: dict[str, int], randomise: Randomise) -> None:
    block = randomise(XVolution2d(4, 8, spec=BlockSpec(("conv",)), dtype=torch.float64, **geometry)).eval()
    x = torch.randn(3, 4, 6, 7, dtype=torch.float64)
    check_sample_kernel(block, x)


def check_sample_kernel(block: XVolution2d, x: torch.Tensor) -> None:
    kernel_BOIkk, bias_O = block.sample_kernel(x)
    assert kernel_BOIkk.shape[:2] == (x.shape[0], block.geometry.out_chs)
    shape = {"stride": block.geometry.stride, "groups": block.geometry.groups}
    size = kernel_BOIkk.shape[-1]
    each = [
        nn.functional.conv2d(image[None], kernel, bias_O, padding=size // 2, **shape)
        for image, kernel in zip(x, kernel_BOIkk, strict=True)
    ]
    torch.testing.assert_close(torch.cat(each), block(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in branch_names() if branch_class(name).has_sample_kernel])
@pytest.mark.parametrize("geometry", [{}, {"stride": 2, "groups": 2}], ids=str)
def test_one_convolution_for_each_sample(name: str, geometry: dict[str, int], randomise: Randomise) -> None:
    spec = BlockSpec(tuple(dict.fromkeys(("conv", name))))
    block = randomise(XVolution2d(8, 8, spec=spec, dtype=torch.float64, **geometry)).eval()
    check_sample_kernel(block, torch.randn(3, 8, 5, 6, dtype=torch.float64))


def test_a_branch_that_changes_from_pixel_to_pixel_has_no_sample_kernel() -> None:
    with pytest.raises(ValueError, match=r"branch 'pssa' is another convolution at each pixel.*dynamic_kernel"):
        XVolution2d(4, 8).sample_kernel(torch.randn(1, 4, 5, 5))


@pytest.mark.parametrize("name", ["pssa", "pssa_inner", "linear_global", "second_conv"])
def test_a_branch_without_norm_has_a_scale_and_folds(name: str, randomise: Callable[[nn.Module], nn.Module]) -> None:
    """Converted, it is silent at first; its statistics never enter, so train and eval mode agree in that branch."""
    spec = BlockSpec.make(["conv", name], {name: {"norm": "none"}})
    block = XVolution2d(4, 8, spec=spec, dtype=torch.float64)
    assert type(block.norms[name]) is ScaleShift2d
    assert type(block.norms["conv"]) is nn.BatchNorm2d
    assert not block.norms[name].weight.any()
    randomise(block).eval()
    nn.init.normal_(block.norms[name].weight)
    nn.init.normal_(block.norms[name].bias)
    x = 10 * torch.randn(3, 4, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(block.fuse()(x), block(x), rtol=1e-10, atol=1e-10)
    alone = block.norms[name](block.branches[name](x))
    torch.testing.assert_close(block.norms[name].train()(block.branches[name](x)), alone)


def test_a_static_part_as_wide_as_its_reach_becomes_one_convolution() -> None:
    """A query bias under a larger map, with a silent query: the convolution is grown until all of it fits."""
    spec = BlockSpec.make(["conv", "gap_query"], {"gap_query": {"q_bias": True, "mix_kernel": 3}}, gamma=1.0)
    block = XVolution2d(4, 4, stride=2, spec=spec, dtype=torch.float64).eval()
    branch = block.branches["gap_query"]
    nn.init.zeros_(branch.query.weight)
    nn.init.normal_(branch.query.bias)
    x = torch.randn(2, 4, 9, 7, dtype=torch.float64)
    conv = block.to_conv()
    assert conv.kernel_size == (7, 7)
    torch.testing.assert_close(conv(x), block(x), rtol=1e-10, atol=1e-10)
