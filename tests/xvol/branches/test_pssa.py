"""The product form against its naive shifted form, in float64, and what it refuses."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import xvol
from xvol.branches.base import Geometry
from xvol.branches.pssa import PSSA, Execution, GAPQuery, PSSADense, set_execution

from ..oracles import product_shifted, ungroup

OFFSETS = {
    4: [(-1, 0), (0, -1), (0, 1), (1, 0)],
    8: [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)],
    9: list(itertools.product((-1, 0, 1), repeat=2)),
}
SIZES = [(1, 1), (1, 5), (3, 1), (5, 7)]


def naive(branch: PSSA, x: Tensor) -> Tensor:
    """The branch written out: dense P_d = sum_r P^r diag(a^r_d), shifted copies, dense matrices for groups."""
    groups, rank, embed = branch.geometry.groups, branch.rank, branch.embed_chs
    project_ORE = ungroup(branch.project.weight, groups).view(-1, embed, rank).transpose(1, 2)
    taps_DRE = branch.taps.view(embed, rank, branch.directions).permute(2, 1, 0)
    return product_shifted(
        x,
        ungroup(branch.query.weight, groups),
        branch.query.bias,
        ungroup(branch.key.weight, groups),
        torch.einsum("ore,dre->doe", project_ORE, taps_DRE),
        [(branch.shift * down, branch.shift * right) for down, right in OFFSETS[branch.directions]],
        stride=branch.geometry.stride,
        border=branch.border,
    )


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@settings(deadline=None, max_examples=120)
@given(
    border=st.sampled_from(["zero", "replicate"]),
    stride=st.integers(1, 3),
    shift=st.integers(1, 4),
    directions=st.sampled_from([4, 8, 9]),
    rank=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    q_bias=st.booleans(),
    embed_ratio=st.sampled_from([0.1, 0.5, 1.0, 1.5]),
    height=st.integers(1, 8),
    width=st.integers(1, 8),
)
def test_fast_form_is_the_shifted_form(height: int, width: int, groups: int, **options: object) -> None:
    branch = PSSA(8, 12, groups=groups, dtype=torch.float64, **options)
    if branch.query.bias is not None:
        nn.init.normal_(branch.query.bias)
    x = torch.randn(2, 8, height, width, dtype=torch.float64)
    close(branch(x), naive(branch, x))


@pytest.mark.parametrize("border", ["zero", "replicate"])
@pytest.mark.parametrize(("stride", "shift"), [(1, 1), (2, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("directions", [4, 8, 9])
@pytest.mark.parametrize("size", SIZES)
def test_gradients(border: str, stride: int, shift: int, directions: int, size: tuple[int, int]) -> None:
    """With respect to the input and to every parameter."""
    branch = PSSA(
        2, 2, stride=stride, shift=shift, directions=directions, border=border, rank=2, q_bias=True, dtype=torch.float64
    )
    names = [name for name, _ in branch.named_parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(branch, dict(zip(names, values, strict=True)), (x,))

    x = torch.randn(1, 2, *size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *branch.parameters()))


@pytest.mark.parametrize("border", ["zero", "replicate"])
def test_rank_8_is_any_dense_form(border: str) -> None:
    """Set a^r_d to 1 where r = d: then P^r is the dense P_d."""
    branch = PSSA(4, 6, rank=8, border=border, q_bias=True, dtype=torch.float64)
    dense_DOE = torch.randn(8, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        branch.taps.copy_(torch.eye(8).repeat(6, 1))
        branch.project.weight.copy_(dense_DOE.permute(1, 2, 0).reshape(6, 48, 1, 1))
        nn.init.normal_(branch.query.bias)
    x = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    weights = (branch.query.weight.flatten(1), branch.query.bias, branch.key.weight.flatten(1))
    close(branch(x), product_shifted(x, *weights, dense_DOE, OFFSETS[8], border=border))


@pytest.mark.parametrize("options", [{}, {"rank": 2, "border": "replicate"}, {"mix_kernel": 3, "embed_ratio": 0.5}])
def test_without_gradients_it_saves_memory_and_is_the_same(options: dict[str, Any]) -> None:
    branch = PSSA(4, 6, **options)
    x = torch.randn(2, 4, 5, 7)
    before = x.clone()
    with torch.no_grad():
        found = branch(x)
    assert torch.equal(found, branch(x))
    assert torch.equal(x, before)


@pytest.mark.parametrize(("size", "stride"), [((1, 1), 2), ((7, 6), 2), ((7, 6), 3)])
def test_output_size_is_that_of_a_centred_convolution(size: tuple[int, int], stride: int) -> None:
    host = nn.Conv2d(4, 8, 3, stride=stride, padding=1)
    x = torch.randn(1, 4, *size)
    assert PSSA(4, 8, stride=stride, shift=2)(x).shape == host(x).shape


def test_embedding_follows_ratio_and_groups() -> None:
    assert PSSA(64, 64, embed_ratio=0.25).embed_chs == 16
    assert PSSA(64, 32, embed_ratio=0.25).embed_chs == 8
    assert PSSA(128, 128, groups=32, embed_ratio=0.25).embed_chs == 32
    assert PSSA(128, 128, groups=32, embed_ratio=0.01).embed_chs == 32
    assert all(parameter.dim() <= 4 for parameter in PSSA(8, 8, rank=3).parameters())


def test_the_centre_tap_is_there_only_with_nine_directions() -> None:
    assert not PSSA(4, 4).window()[:, :, 1, 1].any()
    assert not PSSA(4, 4, directions=4).window()[:, :, ::2, ::2].any()
    assert PSSA(4, 4, directions=9).window().all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "rank=0 must be a whole number of at least 1"),
        ({"shift": 1.5}, "shift=1.5 must be a whole number"),
        ({"embed_ratio": 0.0}, "embed_ratio=0.0 must be a number above 0"),
        ({"embed_ratio": float("nan")}, "embed_ratio=nan"),
        ({"directions": 5}, "directions=5 must be one of 4, 8, 9"),
        ({"border": "reflect"}, "border='reflect' must be one of 'zero', 'replicate'"),
        ({"q_bias": 1}, "q_bias=1 must be True or False"),
        ({"groups": 3}, "groups=3 must divide"),
        ({"kernel_size": 4}, "kernel_size=4 is even"),
    ],
)
def test_refuses(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PSSA(4, 4, **wrong)


OFFSETS_PSSA_DENSE = {
    4: [(-1, 0), (0, -1), (0, 1), (1, 0)],
    8: [offset for offset in itertools.product((-1, 0, 1), repeat=2) if any(offset)],
    9: list(itertools.product((-1, 0, 1), repeat=2)),
}


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    border=st.sampled_from(["zero", "replicate"]),
    stride=st.integers(1, 3),
    shift=st.integers(1, 4),
    directions=st.sampled_from([4, 8, 9]),
    groups=st.sampled_from([1, 2, 4]),
    q_bias=st.booleans(),
    embed_ratio=st.sampled_from([0.1, 0.5, 1.5]),
    height=st.integers(1, 8),
    width=st.integers(1, 8),
)
def test_is_the_shifted_form(height: int, width: int, groups: int, **options: object) -> None:
    branch = PSSADense(8, 12, groups=groups, dtype=torch.float64, **options)
    if branch.query.bias is not None:
        nn.init.normal_(branch.query.bias)
    x = torch.randn(2, 8, height, width, dtype=torch.float64)
    expected = product_shifted(
        x,
        ungroup(branch.query.weight, groups),
        branch.query.bias,
        ungroup(branch.key.weight, groups),
        ungroup(branch.project.weight, groups).view(12, -1, branch.directions).permute(2, 0, 1),
        [(branch.shift * down, branch.shift * right) for down, right in OFFSETS_PSSA_DENSE[branch.directions]],
        stride=branch.geometry.stride,
        border=branch.border,
    )
    torch.testing.assert_close(branch(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("directions", [4, 8, 9])
def test_pssa_reaches_it_at_full_rank(directions: int) -> None:
    """a^r_d = 1 where r = d: the same weights, channel by channel with the directions inside, as ranks are."""
    dense = PSSADense(4, 6, groups=2, directions=directions, dtype=torch.float64)
    low = PSSA(4, 6, groups=2, directions=directions, rank=directions, dtype=torch.float64)
    with torch.no_grad():
        low.load_state_dict(dense.state_dict() | {"taps": torch.eye(directions).repeat(6, 1)})
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(dense(x), low(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("directions", [4, 8, 9])
@pytest.mark.parametrize(("in_chs", "out_chs", "ratio"), [(16, 16, 1.0), (16, 32, 0.25)])
def test_costs_what_the_table_says(in_chs: int, out_chs: int, ratio: float, directions: int) -> None:
    """2 Ci Ce + D Ce + D Ce Co MACs per pixel, 2 Ci Ce + D Ce Co parameters."""
    branch = PSSADense(in_chs, out_chs, embed_ratio=ratio, directions=directions)
    embed = branch.embed_chs
    maps = 2 * in_chs * embed + directions * embed * out_chs
    assert xvol.count_macs(branch, (in_chs, 5, 7)) == 35 * (maps + directions * embed)
    assert xvol.count_params(branch) == maps


@pytest.mark.parametrize(("shift", "dilation", "leaves"), [(1, 1, True), (2, 1, False), (2, 2, True), (1, 2, False)])
def test_a_query_bias_that_fits_leaves_the_dynamic_part(shift: int, dilation: int, leaves: bool) -> None:
    branch = PSSADense(4, 4, q_bias=True, shift=shift)
    folded = branch.fold(nn.BatchNorm2d(4).eval(), Geometry(in_chs=4, out_chs=4, dilation=dilation))
    assert (folded.dynamic.query.bias is None) == leaves
    assert branch.query.bias is not None


@settings(deadline=None, max_examples=60)
@given(
    stride=st.integers(1, 3),
    shift=st.integers(1, 4),
    directions=st.sampled_from([4, 8, 9]),
    rank=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    q_bias=st.booleans(),
    embed_ratio=st.sampled_from([0.1, 1.0]),
    height=st.integers(1, 8),
    width=st.integers(1, 8),
)
def test_is_the_shifted_form_with_the_mean_for_a_query(height: int, width: int, groups: int, **options: object) -> None:
    branch = GAPQuery(8, 12, groups=groups, dtype=torch.float64, **options)
    if branch.query.bias is not None:
        nn.init.normal_(branch.query.bias)
    rank, embed = branch.rank, branch.embed_chs
    project_ORE = ungroup(branch.project.weight, groups).view(-1, embed, rank).transpose(1, 2)
    taps_DRE = branch.taps.view(embed, rank, branch.directions).permute(2, 1, 0)
    x = torch.randn(2, 8, height, width, dtype=torch.float64)
    expected = [
        product_shifted(
            sample,
            torch.zeros(embed, 8, dtype=torch.float64),
            branch.query(sample.mean((2, 3), keepdim=True)).flatten(),
            ungroup(branch.key.weight, groups),
            torch.einsum("ore,dre->doe", project_ORE, taps_DRE),
            [(branch.shift * down, branch.shift * right) for down, right in OFFSETS[branch.directions]],
            stride=branch.geometry.stride,
        )
        for sample in x.split(1)
    ]
    torch.testing.assert_close(branch(x), torch.cat(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("directions", [4, 8, 9])
def test_costs_one_embedding_less_than_the_product_form(rank: int, directions: int) -> None:
    """Ci Ce + R ((D + 1) Ce + Ce Co) MACs per pixel, and Ci Ce once for the image."""
    branch = GAPQuery(16, 32, rank=rank, directions=directions, embed_ratio=0.25)
    pixel = 16 * 8 + rank * ((directions + 1) * 8 + 8 * 32)
    assert xvol.count_macs(branch, (16, 5, 7)) == 35 * pixel + 16 * 8
    assert xvol.count_params(branch) == 2 * 16 * 8 + rank * (directions * 8 + 8 * 32)


@pytest.mark.parametrize(("shift", "dilation", "leaves"), [(1, 1, True), (2, 1, False), (2, 2, True), (1, 2, False)])
def test_a_bias_of_the_image_s_query_that_fits_leaves_the_dynamic_part(shift: int, dilation: int, leaves: bool) -> None:
    branch = GAPQuery(4, 4, q_bias=True, shift=shift)
    folded = branch.fold(nn.BatchNorm2d(4).eval(), Geometry(in_chs=4, out_chs=4, dilation=dilation))
    assert (folded.dynamic.query.bias is None) == leaves


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "gap_query: rank=0 must be a whole number of at least 1"),
        ({"q_bias": "yes"}, "gap_query: q_bias='yes' must be True or False"),
    ],
)
def test_the_image_s_query_refuses(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GAPQuery(4, 4, **wrong)


RECOMPUTED = [
    {},
    {"q_bias": True, "rank": 3},
    {"groups": 2, "stride": 2, "directions": 4},
    {"border": "replicate", "shift": 2, "rank": 2},
    {"embed_ratio": 0.25, "shift": 3},
]


@pytest.mark.parametrize("options", RECOMPUTED, ids=str)
def test_recomputing_is_the_same_to_the_second_derivative(options: dict[str, object]) -> None:
    branch, results = PSSA(8, 12, dtype=torch.float64, **options), []
    x = torch.randn(2, 8, 5, 3, dtype=torch.float64, requires_grad=True)
    for recompute in (False, True):
        set_execution(branch, Execution(recompute=recompute))
        y = branch(x)
        once = torch.autograd.grad((y * y.detach().cos()).sum(), (x, *branch.parameters()), create_graph=True)
        twice = torch.autograd.grad(once[0].square().sum(), (x, branch.taps))
        results.append((y, *once, *twice))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def saved_activations(run: Callable[[], Tensor], model: nn.Module) -> int:
    """Bytes kept for the backward pass, each storage once, parameters and buffers aside."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = run()
    assert y.requires_grad
    return sum(seen.values())


@pytest.mark.parametrize("compiled", [False, True])
def test_recomputing_keeps_half_as_much_again_as_a_convolution(compiled: bool) -> None:
    """The input, and what each of the two norms takes; compiled likewise."""
    x = torch.randn(4, 16, 24, 24, requires_grad=True)
    conv = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
    block = xvol.XVolution2d(16, 16)
    set_execution(block, Execution(recompute=True))
    base = saved_activations(lambda: conv(x), conv)
    run = torch.compile(block, fullgraph=True, backend="aot_eager") if compiled else block
    assert saved_activations(lambda: run(x), block) <= 1.51 * base
    set_execution(block, Execution(recompute=False))
    assert saved_activations(lambda: block(x), block) >= 3 * base


def test_execution_is_no_part_of_the_architecture() -> None:
    block = xvol.XVolution2d(8, 8)
    before, keys = block.spec.canonical(), set(block.state_dict())
    assert set_execution(block, Execution(recompute=True)) == 1
    assert block.spec.canonical() == before
    assert set(block.state_dict()) == keys
    with pytest.raises(ValueError, match="no pssa branch"):
        set_execution(nn.Conv2d(4, 4, 3), Execution())


def test_recomputing_in_low_precision_under_autocast() -> None:
    branch = PSSA(8, 8)
    branch.execution = Execution(recompute=True)
    x = torch.randn(2, 8, 6, 6)
    y = branch(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = branch(x)
    low.float().sum().backward()
    assert low.dtype == torch.bfloat16
    assert (low.float() - y).norm() < 0.05 * y.norm()
    assert all(
        parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in branch.parameters()
    )


def test_watched_convolutions_are_called() -> None:
    """Hooks on the 1x1 convolutions see their input: no form that was not asked for bypasses them then."""
    branch, seen = PSSA(8, 16, embed_ratio=0.25), []
    for conv in (branch.query, branch.key, branch.project):
        conv.register_forward_hook(lambda module, took, gave: seen.append(module))
    branch(torch.randn(1, 8, 4, 4))
    assert seen == [branch.query, branch.key, branch.project]
