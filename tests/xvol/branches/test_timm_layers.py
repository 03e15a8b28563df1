"""The adapters are timm's own layers where those run, and exact where those do not."""

import pytest
import torch
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.halo_attn import HaloAttn
from timm.layers.lambda_layer import LambdaLayer
from torch import nn
from torch.nn import functional

import xvol
from xvol.branches.timm_layers import Bottleneck, Halo, Lambda

strides = pytest.mark.parametrize("stride", [1, 2])


@strides
def test_halo_is_timms_layer_on_whole_blocks(stride: int) -> None:
    branch = Halo(8, 16, stride=stride, heads=4, block_size=4)
    layer = HaloAttn(8, 16, stride=stride, num_heads=4, block_size=4)
    layer.load_state_dict(branch.layer.state_dict())
    x = torch.randn(2, 8, 8, 12)
    torch.testing.assert_close(branch(x), layer(x))
    assert xvol.count_macs(branch, (8, 8, 12)) == xvol.count_macs(layer, (8, 8, 12))


def test_halo_sees_zeros_around_a_map_of_part_blocks() -> None:
    """A larger image of zeros around the map gives the same at its pixels: the border is zero on every side."""
    branch = Halo(4, 4, heads=2, block_size=4, halo_size=2, dtype=torch.float64)
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    wide = functional.pad(x, [4, 6, 8, 3])
    torch.testing.assert_close(branch(wide)[:, :, 8:13, 4:10], branch(x))


@strides
def test_lambda_is_timms_layer(stride: int) -> None:
    branch = Lambda(8, 8, stride=stride, heads=2, window=5).eval()
    layer = LambdaLayer(8, 8, stride=stride, num_heads=2, dim_head=None, r=5).eval()
    weights = branch.layer.state_dict()
    weights["conv_lambda.weight"] = weights["conv_lambda.weight"][..., None]
    layer.load_state_dict(weights)
    x = torch.randn(2, 8, 6, 8)
    torch.testing.assert_close(branch(x), layer(x))
    assert xvol.count_macs(branch, (8, 6, 8)) == xvol.count_macs(layer, (8, 6, 8))


@strides
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_bottleneck_is_timms_layer_at_its_size(stride: int, qkv_bias: bool) -> None:
    branch = Bottleneck(8, 16, stride=stride, heads=2, feat_size=6, qkv_bias=qkv_bias)
    layer = BottleneckAttn(8, 16, feat_size=(6, 6), stride=stride, num_heads=2, qkv_bias=qkv_bias)
    layer.load_state_dict(branch.layer.state_dict())
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(branch(x), layer(x))
    assert xvol.count_macs(branch, (8, 6, 6)) == xvol.count_macs(layer, (8, 6, 6))


@pytest.mark.parametrize("size", [(3, 5), (1, 6), (1, 1)])
def test_bottleneck_on_a_smaller_map_has_the_same_relative_positions(size: tuple[int, int]) -> None:
    """timm's layer built at that size, with the middle rows of the tables."""
    branch = Bottleneck(8, 8, heads=2, feat_size=6)
    layer = BottleneckAttn(8, 8, feat_size=size, num_heads=2)
    weights = branch.layer.state_dict()
    for table, edge in zip(("pos_embed.height_rel", "pos_embed.width_rel"), size, strict=True):
        weights[table] = weights[table][6 - edge : 5 + edge]
    layer.load_state_dict(weights)
    x = torch.randn(2, 8, *size)
    torch.testing.assert_close(branch(x), layer(x))


def test_bottleneck_refuses_a_map_larger_than_its_tables() -> None:
    with pytest.raises(ValueError, match="7x3 is larger than feat_size=6: set feat_size to at least 7"):
        Bottleneck(8, 8, feat_size=6)(torch.randn(1, 8, 7, 3))


@pytest.mark.parametrize("branch", [Lambda, Bottleneck])
def test_pools_take_what_is_left_of_odd_sizes(branch: type[Lambda]) -> None:
    whole, strided = branch(8, 8).eval(), branch(8, 8, stride=2).eval()
    strided.load_state_dict(whole.state_dict())
    x = torch.randn(1, 8, 5, 6)
    expected = nn.functional.avg_pool2d(whole(x), 2, ceil_mode=True)
    torch.testing.assert_close(strided(x), expected)


@pytest.mark.parametrize(
    ("branch", "wrong", "message"),
    [
        (Halo, {"stride": 3}, "halo: stride=3 is refused: the layer takes 1 or 2"),
        (Halo, {"groups": 2}, "halo: groups=2 is refused: the operator mixes all channels"),
        (Halo, {"heads": 3}, "halo: heads=3 is refused: it does not divide out_chs=16"),
        (Halo, {"heads": 16}, "halo: heads=16 is refused: timm leaves them no query channels"),
        (Halo, {"stride": 2, "block_size": 7}, "halo: block_size=7 is refused: under stride 2 it must be even"),
        (Lambda, {}, "lambda_layer: in_chs=8 and out_chs=16 differ"),
        (Lambda, {"window": 4}, "lambda_layer: window=4 must be an odd whole number"),
        (Bottleneck, {"feat_size": 0}, "bottleneck_attn: feat_size=0 must be a whole number"),
    ],
)
def test_refuses(branch: type[Halo], wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        branch(8, 16, **{"qk_ratio": 0.5} | wrong)
