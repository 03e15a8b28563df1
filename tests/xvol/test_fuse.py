import copy
import math
from collections.abc import Callable

import pytest
import timm
import torch
from timm.utils.model import reparameterize_model
from torch import nn

import xvol
from xvol.block import FusedXVolution2d

Randomise = Callable[[nn.Module], nn.Module]


def converted(name: str, policy: str, spec: xvol.BlockSpec, **arguments: object) -> nn.Module:
    model = timm.create_model(name, num_classes=7, **arguments)
    chosen = xvol.select(xvol.sites(model, (3, 32, 32)), policy)
    return xvol.convert(model, {site.fqn: spec for site in chosen}, (3, 32, 32))


@pytest.mark.parametrize(
    ("name", "policy"),
    [("xvol_proxy_resnet", "all"), ("resnet18", "stage[2-3].*"), ("resnext50_32x4d", "stage[1,4].last")],
)
@pytest.mark.parametrize(
    "spec",
    [
        xvol.BlockSpec.make(gamma=1.0),
        xvol.BlockSpec.make(["pssa"], {"pssa": {"q_bias": True}}),
        xvol.BlockSpec(("conv",)),
    ],
    ids=str,
)
def test_logits_of_the_fused_model(name: str, policy: str, spec: xvol.BlockSpec, randomise: Randomise) -> None:
    """In float64, after statistics and affine parts have been randomised; timm's own re-parameterisation does the same."""
    model = randomise(converted(name, policy, spec)).double().eval()
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        scale = model(x).abs().max().item()
    fused = xvol.fuse(model)
    assert 0.0 <= xvol.fuse_error(model, fused, x) < 1e-10 * scale
    assert xvol.fuse_error(fused, reparameterize_model(model), x) == 0.0
    assert not any(isinstance(module, xvol.XVolution2d) for module in fused.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_fusing_twice_changes_nothing() -> None:
    model = converted("xvol_proxy_resnet", "stage2", xvol.BlockSpec.make(gamma=1.0)).eval()
    fused = xvol.fuse(model)
    assert any(isinstance(module, FusedXVolution2d) for module in fused.modules())
    assert xvol.fuse_error(fused, xvol.fuse(fused), torch.randn(2, 3, 32, 32)) == 0.0


def test_a_block_alone_and_a_model_without_blocks() -> None:
    assert type(xvol.fuse(xvol.XVolution2d(4, 4, spec=xvol.BlockSpec(("conv",))))) is nn.Conv2d
    plain = timm.create_model("xvol_proxy_resnet")
    assert xvol.fuse_error(plain, xvol.fuse(plain), torch.randn(2, 3, 32, 32)) == 0.0


def test_the_error_sees_a_difference_and_restores_the_modes() -> None:
    model = converted("xvol_proxy_resnet", "stage1", xvol.BlockSpec()).train()
    fused = xvol.fuse(model)
    fused.fc.bias.data[3] += 0.5
    assert xvol.fuse_error(model, fused, torch.randn(2, 3, 32, 32)) == pytest.approx(0.5, abs=1e-4)
    assert model.training
    assert fused.training
    fused.fc.bias.data[3] = float("nan")
    assert math.isnan(xvol.fuse_error(model, fused, torch.randn(2, 3, 32, 32)))


@pytest.mark.parametrize("name", ["xvol_proxy_resnet", "resnet50"])
@pytest.mark.parametrize("policy", ["none", "stage3"])
def test_norms_of_plain_convolutions_are_taken_in_on_request(name: str, policy: str, randomise: Randomise) -> None:
    model = randomise(converted(name, policy, xvol.BlockSpec.make(gamma=1.0))).double().eval()
    fused = xvol.fuse(model, (3, 32, 32))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        scale = model(x).abs().max().item()
    assert xvol.fuse_error(model, fused, x) < 1e-10 * scale
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_the_report_tells_both_precisions(randomise: Randomise) -> None:
    model = randomise(converted("xvol_proxy_resnet", "stage[2-3]", xvol.BlockSpec.make(gamma=1.0))).train()
    state = copy.deepcopy(model.state_dict())
    report = xvol.fuse_report(model, (3, 32, 32))
    assert 0 < report.error_float64 < 1e-12 * report.largest
    assert 1e-9 * report.largest < report.error_float32 < 1e-4 * report.largest
    assert (report.blocks, report.collapsed) == (4, 0)
    assert (report.params, report.params_fused) == (xvol.count_params(model), xvol.count_params(xvol.fuse(model)))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert model.training
    assert next(model.parameters()).dtype == torch.float32
    assert f"{report.blocks} blocks fused, 0 of them" in str(report)


def test_the_report_on_given_images_of_a_block_and_of_plain_norms(randomise: Randomise) -> None:
    block = randomise(xvol.XVolution2d(4, 4, spec=xvol.BlockSpec(("conv",))))
    report = xvol.fuse_report(block, torch.randn(1, 4, 5, 5))
    assert (report.blocks, report.collapsed) == (1, 1)
    plain = randomise(timm.create_model("xvol_proxy_resnet"))
    assert xvol.fuse_report(plain, (3, 32, 32)).error_float64 == 0.0
    taken_in = xvol.fuse_report(plain, (3, 32, 32), plain=True)
    assert taken_in.params_fused < taken_in.params
    assert taken_in.error_float64 < 1e-12 * taken_in.largest
