"""The inner form against its naive shifted form, its depthwise form, and half precision; global attention against weights written out."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import xvol
from xvol.branches.inner import LinearGlobal, PSSAInner, SoftmaxGlobal
from xvol.testing import apply_sample_kernel

from ..oracles import attend_globally, inner_shifted, ungroup

OFFSETS = {
    4: [(-1, 0), (0, -1), (0, 1), (1, 0)],
    8: [offset for offset in itertools.product((-1, 0, 1), repeat=2) if any(offset)],
    9: list(itertools.product((-1, 0, 1), repeat=2)),
}


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(
    heads=st.sampled_from([1, 3, None]),
    border=st.sampled_from(["zero", "replicate"]),
    stride=st.integers(1, 3),
    shift=st.integers(1, 4),
    directions=st.sampled_from([4, 8, 9]),
    groups=st.sampled_from([1, 2]),
    q_bias=st.booleans(),
    embed_ratio=st.sampled_from([0.5, 1.0]),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
)
def test_is_the_shifted_form(height: int, width: int, groups: int, **options: object) -> None:
    """With a head for each channel the branch takes its depthwise form: the oracle does not."""
    branch = PSSAInner(8, 12, groups=groups, dtype=torch.float64, **options)
    if branch.query.bias is not None:
        nn.init.normal_(branch.query.bias)
    x = torch.randn(2, 8, height, width, dtype=torch.float64)
    embeddings = [ungroup(conv.weight, groups) for conv in (branch.query, branch.key, branch.value)]
    expected = inner_shifted(
        x,
        embeddings[0],
        branch.query.bias,
        *embeddings[1:],
        branch.taps,
        ungroup(branch.project.weight, groups),
        [(branch.shift * down, branch.shift * right) for down, right in OFFSETS[branch.directions]],
        stride=branch.geometry.stride,
        border=branch.border,
    )
    torch.testing.assert_close(branch(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("heads", [1, 2, None])
@pytest.mark.parametrize("groups", [1, 2])
def test_more_values_are_several_branches_of_one_attention(heads: int | None, groups: int) -> None:
    """Twice the values in each head: the sum of two branches that share q, k and taps and have half of V and P each."""
    both = PSSAInner(8, 8, groups=groups, heads=heads, embed_ratio=0.5, value_ratio=1.0, stride=2, dtype=torch.float64)
    assert both.value.out_channels == 2 * both.query.out_channels == both.project.in_channels
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    expected = torch.zeros(1, dtype=torch.float64)
    for half in range(2):
        one = PSSAInner(8, 8, groups=groups, heads=heads, embed_ratio=0.5, stride=2, dtype=torch.float64)
        values = both.value.weight.view(both.heads, 2, -1, 8 // groups)[:, half].reshape(one.value.weight.shape)
        project = both.project.weight.view(8, both.heads // groups, 2, -1)[:, :, half].reshape(one.project.weight.shape)
        one.load_state_dict({**both.state_dict(), "value.weight": values, "project.weight": project})
        expected = expected + one(x)
    torch.testing.assert_close(both(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("heads", [1, 2, None])
def test_costs_of_more_values(heads: int | None) -> None:
    """2 Ci Ce + Ci Cv + D (Ce + h + Cv) + Cv Co MACs per pixel."""
    branch = PSSAInner(16, 16, heads=heads, embed_ratio=0.25, value_ratio=0.5)
    h = 4 if heads is None else heads
    assert xvol.count_macs(branch, (16, 5, 7)) == 35 * (2 * 16 * 4 + 16 * 8 + 8 * (4 + h + 8) + 8 * 16)


@pytest.mark.parametrize("heads", [1, 4, None])
def test_stays_finite_in_fp16_at_loud_activations(heads: int | None) -> None:
    """Activations of standard deviation 10, at which the unscaled sum overflows."""
    branch = PSSAInner(256, 256, heads=heads)
    x = 10 * torch.randn(1, 256, 6, 6)
    y, low = branch(x), branch.half()(x.half())
    assert low.isfinite().all()
    assert (low.float() - y).norm() < 0.02 * y.norm()


@pytest.mark.parametrize("directions", [4, 8, 9])
@pytest.mark.parametrize(("in_chs", "out_chs", "ratio"), [(16, 16, 1.0), (16, 32, 0.25)])
@pytest.mark.parametrize("heads", [1, 2, None])
def test_costs_what_the_table_says(in_chs: int, out_chs: int, ratio: float, heads: int | None, directions: int) -> None:
    """3 Ci Ce + D (2 Ce + h) + Ce Co MACs per pixel; with a head for each channel 3 Ci Ce + (D + 2) Ce + Ce Co."""
    branch = PSSAInner(in_chs, out_chs, embed_ratio=ratio, directions=directions, heads=heads)
    embed = branch.embed_chs
    maps = 3 * in_chs * embed + embed * out_chs
    products = (directions + 2) * embed if heads is None else directions * (2 * embed + heads)
    assert xvol.count_macs(branch, (in_chs, 5, 7)) == 35 * (maps + products)
    assert xvol.count_params(branch) == maps + directions * (embed if heads is None else heads)


def test_strided_depthwise_form_counts_its_products_at_full_resolution() -> None:
    branch = PSSAInner(8, 8, stride=2, heads=None)
    assert xvol.count_macs(branch, (8, 6, 6)) == 36 * (2 * 64 + 8) + 9 * (64 + 9 * 8 + 64)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 3}, "pssa_inner: heads=3 does not divide the 4 embedding channels"),
        ({"heads": 2, "groups": 4}, "heads=2 does not divide the 1 embedding channels"),
        ({"heads": 4, "value_ratio": 0.5}, "value_ratio=0.5 gives 2 value channels .* the 4 heads do not divide"),
        (
            {"value_ratio": 0},
            "pssa_inner: value_ratio=0 must be a number above 0, such as 0.25, or None for that of emb",
        ),
        ({"heads": 0}, "heads=0 must be a whole number of at least 1, or None for a head for each channel"),
        ({"border": "reflect"}, "pssa_inner: border='reflect' must be one of 'zero', 'replicate'"),
        ({"directions": True}, "pssa_inner: directions=True must be one of 4, 8, 9"),
    ],
)
def test_refuses(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PSSAInner(4, 4, **wrong)


geometries = {
    "stride": st.integers(1, 3),
    "groups": st.sampled_from([1, 2]),
    "heads": st.sampled_from([1, 3]),
    "embed_ratio": st.sampled_from([0.5, 1.0]),
    "height": st.integers(1, 6),
    "width": st.integers(1, 6),
}


def written_out(branch: LinearGlobal | SoftmaxGlobal, x: torch.Tensor) -> torch.Tensor:
    query, key, value = (
        ungroup(conv.weight, branch.geometry.groups) for conv in (branch.query, branch.key, branch.value)
    )
    return attend_globally(
        x,
        query,
        branch.query.bias,
        key,
        value,
        ungroup(branch.project.weight, branch.geometry.groups),
        heads=branch.heads,
        softmax=isinstance(branch, SoftmaxGlobal),
        stride=branch.geometry.stride,
    )


@settings(deadline=None, max_examples=40)
@given(**geometries)
def test_linear_is_every_pair_of_pixels(height: int, width: int, **arguments: object) -> None:
    branch = LinearGlobal(8, 12, dtype=torch.float64, **arguments)
    x = torch.randn(2, 8, height, width, dtype=torch.float64)
    torch.testing.assert_close(branch(x), written_out(branch, x), rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(q_bias=st.booleans(), **geometries)
def test_softmax_is_every_pair_of_pixels(height: int, width: int, **arguments: object) -> None:
    branch = SoftmaxGlobal(8, 12, dtype=torch.float64, **arguments)
    if branch.query.bias is not None:
        nn.init.normal_(branch.query.bias)
    x = torch.randn(2, 8, height, width, dtype=torch.float64)
    torch.testing.assert_close(branch(x), written_out(branch, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("size", "kv_size", "cell"), [((5, 7), 3, 3), ((6, 9), 4, 3), ((5, 7), 1, 7), ((1, 4), 2, 2)])
def test_bounded_keys_are_those_of_means_over_square_cells(size: tuple[int, int], kv_size: int, cell: int) -> None:
    branch = SoftmaxGlobal(4, 6, heads=3, stride=2, kv_size=kv_size, q_bias=True, dtype=torch.float64)
    nn.init.normal_(branch.query.bias)  # type: ignore[arg-type]
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    cells = [
        x[:, :, top : top + cell, left : left + cell].mean((2, 3))
        for top in range(0, size[0], cell)
        for left in range(0, size[1], cell)
    ]
    assert len(cells) <= kv_size**2
    seen = torch.stack(cells, 2)  # (B, I, n)
    q, k, v = (
        each.flatten(2).unflatten(1, (3, 2))
        for each in (branch.query(x), branch.key.weight.flatten(1) @ seen, branch.value.weight.flatten(1) @ seen)
    )
    weights = torch.einsum("bhcq,bhck->bhqk", q, k / 2**0.5).softmax(-1)
    z = torch.einsum("bhqk,bhck->bhcq", weights, v).flatten(1, 2).unflatten(2, branch.query(x).shape[2:])
    torch.testing.assert_close(branch(x), branch.project(z), rtol=1e-10, atol=1e-10)


def test_a_map_within_the_bound_is_attended_to_whole_and_old_specs_keep_their_name() -> None:
    torch.manual_seed(0)
    bounded, whole = SoftmaxGlobal(4, 6, kv_size=7), SoftmaxGlobal(4, 6)
    whole.load_state_dict(bounded.state_dict())
    x = torch.randn(2, 4, 5, 7)
    assert torch.equal(bounded(x), whole(x))
    assert "kv_size" not in xvol.BlockSpec(("softmax_global",)).canonical()["options"]["softmax_global"]
    with pytest.raises(ValueError, match="kv_size=0 must be a whole number"):
        SoftmaxGlobal(4, 6, kv_size=0)


@pytest.mark.parametrize("stride", [1, 2])
def test_macs_of_bounded_keys(stride: int) -> None:
    """Q and P at each output pixel, K and V at each of the n keys, and 2 n E for each pair of the two."""
    branch = SoftmaxGlobal(8, 12, embed_ratio=0.5, kv_size=3, stride=stride)
    pixels, keys, embed = -(-20 // stride) * -(-13 // stride), 3 * 2, 6
    expected = pixels * (8 * embed + embed * 12) + keys * 2 * 8 * embed + pixels * 2 * keys * embed
    assert xvol.count_macs(branch, (8, 20, 13)) == expected


def test_linear_is_one_1x1_convolution_for_each_sample() -> None:
    branch = LinearGlobal(8, 12, stride=2, groups=2, heads=3, dtype=torch.float64)
    x = torch.randn(3, 8, 5, 6, dtype=torch.float64)
    kernel, bias = branch.sample_kernel(x)
    assert kernel.shape == (3, 12, 4, 1, 1)
    assert not torch.equal(kernel[0], kernel[1])
    torch.testing.assert_close(apply_sample_kernel(x, kernel, bias, stride=2, groups=2), branch(x))


def test_linear_stays_finite_in_fp16_at_loud_activations() -> None:
    branch = LinearGlobal(64, 64)
    x = 5 * torch.randn(1, 64, 28, 28)
    y, low = branch(x), branch.half()(x.half())
    assert low.isfinite().all()
    assert (low.float() - y).norm() < 0.02 * y.norm()


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize(("in_chs", "out_chs", "ratio"), [(16, 16, 1.0), (16, 32, 0.25)])
def test_global_attention_costs_what_the_table_says(in_chs: int, out_chs: int, ratio: float, heads: int) -> None:
    """Per pixel 3 Ci Ce + Ce Co MACs, and 2 Ce^2 / h for the linear form, 2 HW Ce for the one with softmax."""
    for cls in (LinearGlobal, SoftmaxGlobal):
        branch = cls(in_chs, out_chs, embed_ratio=ratio, heads=heads)
        embed = branch.embed_chs
        maps = 3 * in_chs * embed + embed * out_chs
        pairs = 2 * embed**2 // heads if cls is LinearGlobal else 2 * 35 * embed
        assert xvol.count_macs(branch, (in_chs, 5, 7)) == 35 * (maps + pairs)
        assert xvol.count_params(branch) == maps


def test_stride_counts_keys_and_values_at_full_resolution() -> None:
    assert xvol.count_macs(LinearGlobal(8, 8, stride=2), (8, 6, 6)) == 36 * 3 * 64 + 9 * 3 * 64
    assert xvol.count_macs(SoftmaxGlobal(8, 8, stride=2), (8, 6, 6)) == 36 * 2 * 64 + 9 * (2 * 64 + 2 * 36 * 8)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 3}, "heads=3 does not divide the 4 embedding channels"),
        ({"heads": None}, "heads=None must be a whole number of at least 1"),
        ({"embed_ratio": -1.0}, "embed_ratio=-1.0 must be a number above 0"),
    ],
)
@pytest.mark.parametrize("branch", [LinearGlobal, SoftmaxGlobal])
def test_global_attention_refuses(branch: type[LinearGlobal], wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"{branch.name}: {message}"):
        branch(4, 4, **wrong)
