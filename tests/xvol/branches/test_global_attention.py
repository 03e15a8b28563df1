"""Global attention against weights written out for every pair of pixels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import xvol
from xvol.branches.global_attention import LinearGlobal, SoftmaxGlobal
from xvol.testing import apply_sample_kernel

from ..oracles import attend_globally, ungroup

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
def test_costs_what_the_table_says(in_chs: int, out_chs: int, ratio: float, heads: int) -> None:
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
def test_refuses(branch: type[LinearGlobal], wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"{branch.name}: {message}"):
        branch(4, 4, **wrong)
