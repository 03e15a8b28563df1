"""Registered models: timm builds them by name, and the plain model's weights load."""

import copy
import pickle
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import xvol

SIZE = (3, 64, 64)


def placed(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, xvol.XVolution2d)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("xvol_resnet18", ["layer3.0", "layer3.1"]),
        ("xvol_resnet18.stage3", ["layer3.0", "layer3.1"]),
        ("xvol_resnet18.stage[2-3].last", ["layer2.1", "layer3.1"]),
    ],
)
def test_the_policy_stands_after_the_dot(name: str, expected: list[str]) -> None:
    model = timm.create_model(name, num_classes=3, in_chans=1)
    assert placed(model) == [f"{block}.conv{index}" for block in expected for index in (1, 2)]
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 3)
    assert model.pretrained_cfg["architecture"] == "xvol_resnet18"
    assert model.pretrained_cfg["tag"] == (name.partition(".")[2] or "stage3")
    assert model.pretrained_cfg["input_size"] == (3, 224, 224)


def test_timm_lists_them() -> None:
    assert set(timm.list_models("xvol_resnet50")) == {"xvol_resnet50"}
    assert "xvol_resnet34.stage3" in timm.list_pretrained("xvol_resnet34*")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["checkpoint_path", "pretrained", "load_state_dict", "file of the converted"])
def test_weights_of_the_plain_model_load(way: str, tmp_path: Path) -> None:
    plain = timm.create_model("resnet18", num_classes=5)
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.05)
    plain.train()(torch.randn(4, *SIZE))
    path = tmp_path / "plain.pth"
    torch.save(plain.state_dict(), path)
    name = "xvol_resnet18.stage3"
    if way == "checkpoint_path":
        model = timm.create_model(name, num_classes=5, checkpoint_path=str(path))
    elif way == "pretrained":
        overlay = {"file": str(path), "num_classes": 5}
        model = timm.create_model(name, num_classes=5, pretrained=True, pretrained_cfg_overlay=overlay)
    else:
        model = timm.create_model(name, num_classes=5)
        model.load_state_dict(plain.state_dict())
    if way == "file of the converted":
        torch.save(model.state_dict(), path)
        model = timm.create_model(name, num_classes=5, checkpoint_path=str(path))
    assert len(placed(model)) == 4
    x = torch.randn(2, *SIZE)
    assert torch.equal(model.eval()(x), plain.eval()(x))
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert torch.equal(twin(x), plain(x))


@pytest.mark.parametrize(("gamma", "start", "converted"), [(None, 1.0, 0.0), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0)])
def test_a_branch_starts_open_from_scratch_and_closed_beside_trained_weights(
    gamma: float | None, start: float, converted: float
) -> None:
    model = timm.create_model(
        "xvol_resnet18.stage4.last", num_classes=2, gamma=gamma, branches=["conv", "pssa", "pool"]
    )
    norms = [model.get_submodule(f"{name}.norms.{branch}") for name in placed(model) for branch in ("pssa", "pool")]
    assert {value for norm in norms for value in norm.weight.tolist()} == {start}
    model.load_state_dict(timm.create_model("resnet18", num_classes=2).state_dict())
    assert {value for norm in norms for value in norm.weight.tolist()} == {converted}


def test_features_only() -> None:
    plain = timm.create_model("resnet18")
    model = timm.create_model("xvol_resnet18.stage3", features_only=True, out_indices=(2, 3, 4))
    assert len(placed(model)) == 4
    assert model.feature_info.channels() == [128, 256, 512]
    model.load_state_dict({key: value for key, value in plain.state_dict().items() if not key.startswith("fc")})
    x = torch.randn(1, *SIZE)
    features = model.eval()(x)
    assert torch.equal(features[-1], plain.eval().forward_features(x))


def test_blocks_can_be_chosen_and_another_kernel_starts_afresh() -> None:
    arguments = {"branches": ["conv", "pssa"], "branch_options": {"conv": {"kernel": 5}, "pssa": {"rank": 2}}}
    model = timm.create_model("xvol_resnet18", placement="stage4.last", gamma=1.0, **arguments)
    assert placed(model) == ["layer4.1.conv1", "layer4.1.conv2"]
    own = model.layer4[1].conv1.branches["conv"].conv.weight.clone()
    plain = timm.create_model("resnet18").state_dict()
    model.load_state_dict(plain)
    assert torch.equal(model.layer4[1].conv1.branches["conv"].conv.weight, own)
    assert torch.equal(model.layer4[1].conv1.norms["conv"].weight, plain["layer4.1.bn1.weight"])
    with pytest.raises(RuntimeError, match=r"Missing key.*layer1.0.conv1.weight"):
        model.load_state_dict({key: value for key, value in plain.items() if not key.startswith("layer1.0.conv1")})


def test_policies_that_are_none() -> None:
    with pytest.raises(ValueError, match="stage9 has no sites"):
        timm.create_model("xvol_resnet18.stage9")


def test_the_proxy_is_as_the_recipe_says() -> None:
    model = timm.create_model("xvol_proxy_resnet", num_classes=10, in_chans=1)
    assert (model.conv1.kernel_size, model.conv1.stride, model.conv1.in_channels) == ((3, 3), (2, 2), 1)
    assert type(model.maxpool) is nn.Identity
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 10)
    assert model.layer1[0].downsample is None
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() for norm in norms)
    assert xvol.count_params(model) < 80_000


def test_the_proxys_feature_info_is_true() -> None:
    model = timm.create_model("xvol_proxy_resnet")
    reductions = [stage["reduction"] for stage in model.feature_info]
    assert reductions == [2, 2, 4, 8, 16]
    features = timm.create_model("xvol_proxy_resnet", features_only=True)
    for y, stage in zip(features(torch.zeros(1, 3, 64, 64)), model.feature_info, strict=True):
        assert y.shape == (1, stage["num_chs"], 64 // stage["reduction"], 64 // stage["reduction"])


def test_layers_channels_and_initialisation_can_be_chosen() -> None:
    model = timm.create_model(
        "xvol_proxy_resnet", layers=(2, 1, 1, 3), channels=(4, 8, 8, 16), zero_init_last=True, drop_path_rate=0.1
    )
    assert [len(getattr(model, f"layer{stage}")) for stage in range(1, 5)] == [2, 1, 1, 3]
    assert model.num_features == 16
    assert not model.layer4[2].bn2.weight.any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pretrained": True}, "has no pretrained weights"),
        ({"channels": (7, 8, 8, 8)}, "must start with an even number"),
        ({"layers": (1, 1)}, "must name four stages each"),
    ],
)
def test_a_wrong_proxy_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timm.create_model("xvol_proxy_resnet", **wrong)
