import pytest
import timm
import torch
from torch import nn

import xvol


def test_the_proxy_is_as_the_recipe_says() -> None:
    model = timm.create_model("xvol_proxy_resnet", num_classes=10, in_chans=1)
    assert (model.conv1.kernel_size, model.conv1.stride, model.conv1.in_channels) == ((3, 3), (2, 2), 1)
    assert type(model.maxpool) is nn.Identity
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 10)
    assert model.layer1[0].downsample is None
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() for norm in norms)
    assert xvol.count_params(model) < 80_000


def test_feature_info_is_true() -> None:
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
def test_refuses(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timm.create_model("xvol_proxy_resnet", **wrong)
