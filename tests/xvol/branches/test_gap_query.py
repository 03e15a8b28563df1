"""One query for the whole image: the shifted product form, with that query as its only bias."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import xvol
from xvol.branches.base import Geometry
from xvol.branches.gap_query import GAPQuery
from xvol.reference import product_shifted, ungroup

OFFSETS = {
    4: [(-1, 0), (0, -1), (0, 1), (1, 0)],
    8: [offset for offset in itertools.product((-1, 0, 1), repeat=2) if any(offset)],
    9: list(itertools.product((-1, 0, 1), repeat=2)),
}


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
def test_a_query_bias_that_fits_leaves_the_dynamic_part(shift: int, dilation: int, leaves: bool) -> None:
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
def test_refuses(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GAPQuery(4, 4, **wrong)
