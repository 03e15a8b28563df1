import copy
import math
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from timm.utils.model import reparameterize_model
from torch import nn

import xvol
from xvol.block import FusedXVolution2d
from xvol.surgery import norms_left

Randomise = Callable[[nn.Module], nn.Module]


def converted(name: str, policy: str, spec: xvol.BlockSpec, **arguments: object) -> nn.Module:
    model = timm.create_model(name, num_classes=7, **arguments)
    chosen = xvol.select(xvol.sites(model, (3, 32, 32)), policy)
    return xvol.convert(model, {site.fqn: spec for site in chosen}, (3, 32, 32))


@pytest.mark.slow
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


def lived(name: str, randomise: Randomise) -> nn.Module:
    """Norms whose scales stay near 1: a deep network's logits else lose themselves."""
    model = randomise(timm.create_model(name, num_classes=7)).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("efficientnet_b0", {}),
        ("tf_mobilenetv3_small_minimal_100", {}),
        ("regnetx_002", {}),
        ("resnetv2_50", {"no layer's output comes straight to it": 16, "a MaxPool2d feeds it, not a plain Conv2d": 1}),
        ("repvgg_a0", {"a ReLU feeds it, not a plain Conv2d": 17}),
        ("bat_resnext26ts", {}),
    ],
)
def test_norms_that_hold_an_activation(name: str, left: dict[str, int], randomise: Randomise) -> None:
    model = lived(name, randomise)
    state = copy.deepcopy(model.state_dict())
    size = (3, 256, 256) if name == "bat_resnext26ts" else (3, 64, 64)
    x = torch.randn(1, *size, dtype=torch.float64)
    fused = xvol.fuse(model, size)
    with torch.no_grad():
        largest = model(x).abs().max().item()
    assert 0 < xvol.fuse_error(model, fused, x) < 1e-12 * largest
    assert Counter(refusal.reason for refusal in norms_left(model, size)) == left
    assert count_norms(fused) == sum(left.values()) < count_norms(model)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert xvol.fuse_error(fused, reparameterize_model(fused), x) == 0.0


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_hosts_that_timm_re_parameterises_first_are_folded_too(randomise: Randomise) -> None:
    model = lived("repvgg_a0", randomise)
    fused = xvol.fuse(reparameterize_model(model), (3, 64, 64))
    assert count_norms(fused) == 0
    assert xvol.fuse_error(model, fused, torch.randn(1, 3, 64, 64, dtype=torch.float64)) < 1e-9


def test_drop_and_activation_stay_where_the_norm_was(randomise: Randomise) -> None:
    norm = BatchNormAct2d(4, act_layer=nn.SiLU, drop_layer=partial(nn.Dropout2d, p=0.5))
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), norm)).double().eval()
    fused = xvol.fuse(model, (3, 9, 9))
    assert [name for name, _ in fused[1].named_children()] == ["drop", "act"]
    assert fused[1].drop.p == 0.5
    assert fused[1].act is not norm.act
    assert xvol.fuse_error(model, fused, torch.randn(2, 3, 9, 9, dtype=torch.float64)) < 1e-12


class Twice(nn.Module):
    """A convolution whose output is read by a norm and by another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.norm(y) + y


def test_every_norm_that_stays_has_its_reason(randomise: Randomise) -> None:
    sync = nn.Sequential(nn.Conv2d(3, 3, 1), nn.SyncBatchNorm(3))
    batch = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))
    conv = nn.Conv2d(3, 3, 1)
    shared = nn.Sequential(conv, nn.BatchNorm2d(3), conv)
    model = randomise(Twice())
    assert [left.reason for left in norms_left(model, (3, 5, 5))] == [
        "what its convolution gives is also read elsewhere"
    ]
    assert "SyncBatchNorm" in norms_left(sync, (3, 5, 5))[0].reason
    assert "running statistics" in norms_left(batch, (3, 5, 5))[0].reason
    assert "more than once" in norms_left(shared, (3, 5, 5))[0].reason
    assert xvol.fuse_error(model.eval(), xvol.fuse(model, (3, 5, 5)), torch.randn(2, 3, 5, 5)) == 0.0
    report = xvol.fuse_report(model, (3, 5, 5), plain=True)
    assert (report.norms, report.left) == (0, (("what its convolution gives is also read elsewhere", 1),))
    assert "1 left (1 where what its convolution gives is also read elsewhere)" in str(report)
