"""The controls are plain convolutions, written out here with torch's own layers."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import xvol
from xvol.branches.base import Geometry
from xvol.branches.conv import Conv, Identity, Pool, SecondConv
from xvol.branches.pssa import PSSA


@pytest.mark.parametrize(("stride", "dilation", "groups", "kernel"), [(1, 1, 1, None), (2, 1, 2, 5), (2, 3, 4, 1)])
def test_is_the_convolution_of_torch(stride: int, dilation: int, groups: int, kernel: int | None) -> None:
    branch = Conv(8, 12, stride=stride, dilation=dilation, groups=groups, kernel=kernel)
    size = kernel or 3
    host = nn.Conv2d(8, 12, size, stride, dilation * (size // 2), dilation, groups, bias=False)
    host.weight = branch.conv.weight
    x = torch.randn(2, 8, 9, 7)
    assert torch.equal(branch(x), host(x))


def test_takes_over_a_host_of_its_own_size_with_its_bias() -> None:
    host = nn.Conv2d(4, 4, 3, padding=1)
    branch = Conv(4, 4)
    assert branch.take_over(host)
    assert branch.conv is host
    larger = Conv(4, 4, kernel=5)
    assert not larger.take_over(host)
    assert larger.conv.kernel_size == (5, 5)
    branch.reset_parameters()
    assert not host.bias.any()


@pytest.mark.parametrize("kernel", [0, 2, -3, True, "3", 3.0])
def test_refuses_kernels_without_centre(kernel: object) -> None:
    with pytest.raises(ValueError, match="must be an odd whole number"):
        Conv(4, 4, kernel=kernel)  # type: ignore[arg-type]


GEOMETRIES = [{}, {"stride": 2, "groups": 4}, {"stride": 3, "dilation": 2}]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_second_conv_is_one_convolution_of_torch(geometry: dict[str, int]) -> None:
    branch = SecondConv(8, 16, kernel=5, **geometry)
    host = nn.Conv2d(8, 16, 5, padding=2 * geometry.get("dilation", 1), bias=False, **geometry)
    host.weight = branch.conv.weight
    x = torch.randn(2, 8, 9, 7)
    assert torch.equal(branch(x), host(x))
    narrow = SecondConv(8, 16, width_ratio=0.25, **geometry)
    assert narrow.conv.out_channels == 4
    assert torch.equal(narrow(x), narrow.widen(narrow.conv(x)))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("embed_ratio", [1.0, 0.25])
def test_second_conv_matches_the_capacity_of_attention(groups: int, embed_ratio: float) -> None:
    """To within half of one channel in each group; its MACs then match as well."""
    params = xvol.count_params(PSSA(64, 64, groups=groups, embed_ratio=embed_ratio))
    ratio = SecondConv.width_ratio_for(Geometry(in_chs=64, out_chs=64, groups=groups), params)
    matched = xvol.count_params(SecondConv(64, 64, groups=groups, width_ratio=ratio))
    assert abs(matched - params) <= 640 / 2
    assert xvol.count_macs(SecondConv(64, 64, groups=groups, width_ratio=ratio), (64, 5, 7)) == 35 * matched


def test_second_conv_never_becomes_narrower_than_one_channel_in_each_group() -> None:
    assert SecondConv.width_ratio_for(Geometry(in_chs=64, out_chs=64, groups=32), 1) == 0.5
    assert SecondConv(64, 64, groups=32, width_ratio=1e-6).conv.out_channels == 32


def test_the_block_beside_it_still_folds_to_one_convolution() -> None:
    spec = xvol.BlockSpec.make(["conv", "second_conv", "identity", "pool"], {"second_conv": {"width_ratio": 0.5}}, 1.0)
    block = xvol.XVolution2d(8, 8, stride=2, groups=2, spec=spec, dtype=torch.float64).eval()
    fused = block.fuse()
    assert type(fused) is nn.Conv2d
    assert fused.kernel_size == (3, 3)
    x = torch.randn(2, 8, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(fused(x), block(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_identity_keeps_every_stride_th_pixel(geometry: dict[str, int]) -> None:
    x = torch.randn(2, 8, 7, 6)
    stride = geometry.get("stride", 1)
    assert torch.equal(Identity(8, 8, **geometry)(x), x[:, :, ::stride, ::stride])
    assert xvol.count_macs(nn.Sequential(Identity(8, 8, **geometry)), (8, 7, 6)) == 0


@pytest.mark.parametrize("kernel", [3, 5, None])
def test_pool_is_the_average_pool_of_torch(kernel: int | None) -> None:
    x = torch.randn(2, 4, 7, 6)
    size = kernel or 7
    branch = Pool(4, 4, kernel_size=7, stride=2, kernel=kernel)
    assert torch.equal(branch(x), nn.AvgPool2d(size, 2, size // 2)(x))
    assert not list(branch.parameters())


def test_a_dilated_pool_takes_the_taps_of_the_host() -> None:
    x = torch.randn(1, 1, 6, 7, dtype=torch.float64)
    padded = functional.pad(x, [2] * 4)
    taps = [padded[:, :, row : row + 6, column : column + 7] for row in (0, 2, 4) for column in (0, 2, 4)]
    torch.testing.assert_close(Pool(1, 1, dilation=2)(x), sum(taps) / 9)
    assert xvol.count_macs(nn.Sequential(Pool(4, 4, dilation=2), nn.Conv2d(4, 1, 1)), (4, 5, 5)) == 100


@pytest.mark.parametrize("branch", [Identity, Pool])
def test_weightless_branches_refuse_to_change_channels(branch: type[Identity]) -> None:
    with pytest.raises(ValueError, match="in_chs=4 and out_chs=8 differ, and the branch maps each channel to itself"):
        branch(4, 8)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kernel": 2}, "second_conv: kernel=2 must be an odd whole number of at least 1, or None for the host's"),
        ({"width_ratio": 0}, "second_conv: width_ratio=0 must be a number above 0"),
        ({"width_ratio": True}, "second_conv: width_ratio=True"),
    ],
)
def test_second_conv_refuses(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SecondConv(4, 4, **wrong)
