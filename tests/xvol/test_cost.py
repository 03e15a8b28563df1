"""Counts against the table of the algebra, at stride 1."""

import pytest
import timm
import torch
from torch import nn

import xvol
from xvol.branches.conv import Conv
from xvol.branches.pssa import PSSA


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("directions", [4, 8, 9])
@pytest.mark.parametrize(("in_chs", "out_chs", "ratio"), [(16, 16, 1.0), (16, 32, 0.25)])
def test_product_form(rank: int, directions: int, in_chs: int, out_chs: int, ratio: float) -> None:
    """Per pixel 2 Ci Ce + R ((D + 1) Ce + Ce Co) MACs; 2 Ci Ce + R (D Ce + Ce Co) parameters."""
    branch = PSSA(in_chs, out_chs, rank=rank, directions=directions, embed_ratio=ratio)
    embed = branch.embed_chs
    pixel = 2 * in_chs * embed + rank * ((directions + 1) * embed + embed * out_chs)
    assert xvol.count_macs(branch, (in_chs, 5, 7)) == 35 * pixel
    assert xvol.count_params(branch) == 2 * in_chs * embed + rank * (directions * embed + embed * out_chs)


@pytest.mark.parametrize("groups", [1, 4])
def test_convolution(groups: int) -> None:
    branch = Conv(16, 32, groups=groups)
    assert xvol.count_params(branch) == 9 * 16 * 32 // groups
    assert xvol.count_macs(branch, (16, 5, 7)) == 35 * 9 * 16 * 32 // groups


def test_stride_counts_keys_at_full_resolution() -> None:
    branch = PSSA(8, 8, stride=2)
    assert xvol.count_macs(branch, (8, 6, 6)) == 36 * 64 + 9 * (64 + 9 * 8 + 64)


def test_known_models() -> None:
    model = timm.create_model("resnet18")
    assert xvol.count_params(model) == 11_689_512
    assert xvol.count_macs(model, (3, 224, 224)) == 1_814_073_344
    assert xvol.count_macs(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2)) == 60


def test_a_block_costs_its_branches_and_fusing_saves_only_norms() -> None:
    block = xvol.XVolution2d(8, 16)
    parts = sum(xvol.count_macs(branch, (8, 5, 5)) for branch in block.branches.values())
    assert xvol.count_macs(block, (8, 5, 5)) == parts == xvol.count_macs(block.fuse(), (8, 5, 5))
    assert xvol.count_params(block) - xvol.count_params(block.fuse()) == 2 * 2 * 16 - 16


def test_counting_leaves_the_model_alone() -> None:
    model = xvol.XVolution2d(4, 4).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    xvol.count_macs(model, (4, 8, 8))
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(3, 3)
    assert xvol.count_params(nn.Sequential(layer, layer)) == 12
