from collections.abc import Callable

import timm
import torch
from timm.layers import BatchNormAct2d
from timm.utils.model import reparameterize_model
from torch import nn

from xvol.hosts import keep_from_reparameterising, split_norm


def test_a_plain_norm_leaves_nothing() -> None:
    norm = nn.BatchNorm2d(4).eval()
    plain, rest = split_norm(norm)
    assert plain is norm
    assert type(rest) is nn.Identity
    assert not rest.training


def test_the_two_parts_are_the_norm(randomise: Callable[[nn.Module], nn.Module]) -> None:
    norm = randomise(BatchNormAct2d(4, eps=1e-3, act_layer=nn.SiLU)).eval()
    plain, rest = split_norm(norm)
    x = torch.randn(2, 4, 5, 5)
    assert plain.weight is norm.weight
    assert plain.running_mean is norm.running_mean
    assert torch.equal(rest(plain(x)), norm(x))


def test_timm_passes_over_a_host_that_is_not_whole() -> None:
    model = timm.create_model("repvgg_a0", num_classes=3).eval()
    keep_from_reparameterising(model, "stages.0.0.conv_kxk.conv")
    deployed = reparameterize_model(model)
    assert hasattr(deployed.stages[0][0], "conv_kxk")
    assert not hasattr(deployed.stages[0][1], "conv_kxk")
