"""The dense product form against its naive shifted form, and against `pssa` of full rank."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import xvol
from xvol.branches.base import Geometry
from xvol.branches.pssa import PSSA
from xvol.branches.pssa_dense import PSSADense
from xvol.reference import product_shifted, ungroup

OFFSETS = {
    4: [(-1, 0), (0, -1), (0, 1), (1, 0)],
    8: [offset for offset in itertools.product((-1, 0, 1), repeat=2) if any(offset)],
    9: list(itertools.product((-1, 0, 1), repeat=2)),
}


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
        [(branch.shift * down, branch.shift * right) for down, right in OFFSETS[branch.directions]],
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
