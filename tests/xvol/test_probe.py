"""What a pass leaves alone, and counts against the table of the algebra, at stride 1."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import xvol
from xvol import BlockSpec, XVolution2d, doses, geometric_mean
from xvol.branches.conv import Conv
from xvol.branches.pssa import PSSA
from xvol.probe import at_rest, run_blank_image


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


COMBINATIONS = [
    *(["conv", name] for name in xvol.branch_names() if name != "conv"),
    ["conv", "pssa", "pool"],
    ["conv", "pssa", "identity", "second_conv"],
]


def alone(branches: list[str], **arguments: float) -> nn.Sequential:
    return nn.Sequential(XVolution2d(8, 8, spec=BlockSpec.make(branches, **arguments))).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("gamma", [0.0, 0.25, 2.0])
def test_a_branch_that_is_the_convolution_scaled_has_its_scale_as_dose(gamma: float) -> None:
    model = alone(["conv", "identity"], gamma=gamma)
    block = model.get_submodule("0")
    assert isinstance(block, XVolution2d)
    nn.init.dirac_(block.branches["conv"].conv.weight)
    nn.init.constant_(block.norms["identity"].bias, 7.0)  # the same for every input: no part of the dose
    assert doses(model, torch.randn(4, 8, 5, 5)) == {"0": pytest.approx(gamma, rel=1e-5)}


def test_several_added_branches_count_by_their_sum() -> None:
    model = alone(["conv", "identity", "second_conv"], gamma=1.0)
    block = model.get_submodule("0")
    assert isinstance(block, XVolution2d)
    nn.init.dirac_(block.branches["conv"].conv.weight)
    nn.init.dirac_(block.branches["second_conv"].conv.weight)
    images = torch.randn(4, 8, 5, 5)
    assert doses(model, images)["0"] == pytest.approx(2.0, rel=1e-4)
    with torch.no_grad():
        block.branches["second_conv"].conv.weight.neg_()
    assert doses(model, images)["0"] == pytest.approx(0.0, abs=1e-6)  # they cancel


@pytest.mark.parametrize("branches", COMBINATIONS, ids="+".join)
def test_every_combination_has_a_dose_that_gamma_scales(branches: list[str]) -> None:
    images = torch.randn(2, 8, 6, 6)
    full, half = (alone(branches, gamma=gamma) for gamma in (1.0, 0.5))
    half.load_state_dict(full.state_dict())
    for name, norm in half.get_submodule("0").norms.items():  # type: ignore[operator, union-attr]
        if name != "conv":
            nn.init.constant_(norm.weight, 0.5)
    whole = doses(full, images)["0"]
    assert whole is not None
    assert math.isfinite(whole)
    assert doses(half, images)["0"] == pytest.approx(whole / 2, rel=1e-4)


@pytest.mark.parametrize("branches", [["conv"], ["pssa"], ["pssa", "pool"]], ids="+".join)
def test_without_a_convolution_or_anything_beside_it_there_is_none(branches: list[str]) -> None:
    assert doses(alone(branches), torch.randn(2, 8, 5, 5)) == {"0": None}


def test_a_dead_convolution_has_none() -> None:
    model = alone(["conv", "pssa"], gamma=1.0)
    nn.init.zeros_(model.get_parameter("0.norms.conv.weight"))
    assert doses(model, torch.randn(2, 8, 5, 5)) == {"0": None}


def test_each_block_of_a_model_is_told_and_nothing_moves(randomise: Callable[[nn.Module], nn.Module]) -> None:
    plain = timm.create_model("xvol_proxy_resnet")
    chosen = xvol.select(xvol.sites(plain, (3, 32, 32)), "stage3+stage4")
    model = xvol.convert(plain, {site.fqn: BlockSpec.make(gamma=1.0) for site in chosen}, (3, 32, 32))
    randomise(model).train()
    model.get_submodule("layer1").eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    images, state = torch.randn(4, 3, 32, 32), torch.get_rng_state()
    found = doses(model, images)
    assert found.keys() == {site.fqn for site in chosen}
    assert all(value is not None and value > 0 for value in found.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert doses(model, images) == found


def test_a_deploy_form_has_the_dose_of_what_depends_on_the_input() -> None:
    model = alone(["conv", "pssa"], gamma=0.7)
    images = torch.randn(4, 8, 6, 6)
    trained, fused = doses(model, images)["0"], doses(xvol.fuse(model, (8, 6, 6)), images)["0"]
    assert trained is not None
    assert fused == pytest.approx(trained, rel=1e-3)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1), st.floats(1e-3, 1e3))
def test_a_geometric_mean_scales_with_its_values(values: list[float], scale: float) -> None:
    mean, scaled = geometric_mean(values), geometric_mean([value * scale for value in values])
    assert mean is not None
    assert min(values) * (1 - 1e-9) <= mean <= max(values) * (1 + 1e-9)
    assert scaled == pytest.approx(mean * scale, rel=1e-9)


def test_a_geometric_mean_passes_over_what_is_not_there() -> None:
    assert geometric_mean([]) is None
    assert geometric_mean([None, None]) is None
    assert geometric_mean([0.5, None, 2.0]) == pytest.approx(1.0)
    assert geometric_mean([0.5, 0.0]) == 0.0


def test_every_module_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    model[1].eval()
    seen: list[bool] = []

    def die() -> None:
        with at_rest(model):
            seen.extend([torch.is_grad_enabled(), *(module.training for module in model.modules())])
            raise KeyError

    with pytest.raises(KeyError):
        die()
    assert not any(seen)
    assert len(seen) == 5
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert torch.is_grad_enabled()


def test_a_run_leaves_statistics_and_random_numbers_alone() -> None:
    model = timm.create_model("xvol_proxy_resnet", drop_rate=0.5).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    run_blank_image(model, (3, 32, 32))
    assert torch.equal(stream, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_the_image_has_the_models_dtype() -> None:
    run_blank_image(timm.create_model("xvol_proxy_resnet").double(), (3, 32, 32))


@pytest.mark.parametrize("size", [(3, 32), (3, 0, 32), (3, 32.0, 32), (True, 32, 32)])
def test_sizes_that_are_none(size: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"must be \(channels, height, width\)"):
        run_blank_image(nn.Identity(), size)


def test_an_image_that_does_not_go_through() -> None:
    with pytest.raises(ValueError, match=r"input_size=\(3, 32, 32\).*does not go through ProxyResNet"):
        run_blank_image(timm.create_model("xvol_proxy_resnet", in_chans=1), (3, 32, 32))


def test_names_of_the_plain_network_cover_it() -> None:
    plain = timm.create_model("resnet18", num_classes=3)
    model = timm.create_model("resnet18", num_classes=3)
    chosen = {site.fqn: xvol.BlockSpec() for site in xvol.select(xvol.sites(model), "stage3+stage4.last")}
    names = xvol.plain_names(xvol.convert(model, chosen))
    assert sorted(names.values()) == sorted(plain.state_dict())
