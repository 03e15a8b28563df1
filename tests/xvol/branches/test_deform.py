"""Deformable convolution: what it equals, by its formula, in two special cases and beside torchvision's, and what it costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import xvol
from xvol.branches.deform import DeformConv


def randomised(in_chs: int, out_chs: int, **shape: Any) -> DeformConv:
    branch = DeformConv(in_chs, out_chs, dtype=torch.float64, **shape)
    for conv in (branch.move, branch.weigh):
        for parameter in conv.parameters():
            nn.init.normal_(parameter, std=0.7)
    return branch


def kernel(branch: DeformConv) -> Tensor:
    size = branch.geometry.kernel_size
    return branch.mix.weight.reshape(branch.geometry.out_chs, -1, size, size)


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    """(C, H, W) at a place between pixels, which are 0 outside of the image: (C,)."""
    total = torch.zeros(image.shape[0], dtype=image.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                total += image[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


@pytest.mark.parametrize("shape", [{}, {"stride": 2}, {"dilation": 2}, {"kernel_size": 5}], ids=str)
@torch.no_grad()
def test_each_tap_looks_where_it_is_moved(shape: dict[str, Any]) -> None:
    branch = randomised(3, 2, **shape)
    geo, x = branch.geometry, torch.randn(2, 3, 6, 5, dtype=torch.float64)
    y, moved, weight, taps = branch(x), branch.move(x), branch.weigh(x).sigmoid(), kernel(branch)
    expected = torch.zeros_like(y)
    for image, _, i, j in torch.ones_like(y[:, :1]).nonzero().tolist():
        for tap in range(geo.kernel_size**2):
            down, right = (each * geo.dilation - geo.same_padding for each in divmod(tap, geo.kernel_size))
            down += i * geo.stride + float(moved[image, 2 * tap, i, j])
            right += j * geo.stride + float(moved[image, 2 * tap + 1, i, j])
            seen = weight[image, tap, i, j] * bilinear(x[image], down, right)
            expected[image, :, i, j] += taps[:, :, tap // geo.kernel_size, tap % geo.kernel_size] @ seen
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [{}, {"stride": 2}, {"dilation": 3}, {"kernel_size": 5, "stride": 2}], ids=str)
def test_it_starts_as_half_a_convolution(shape: dict[str, Any]) -> None:
    branch = DeformConv(4, 6, dtype=torch.float64, **shape)
    geo, x = branch.geometry, torch.randn(2, 4, 9, 8, dtype=torch.float64)
    plain = functional.conv2d(x, kernel(branch), stride=geo.stride, padding=geo.same_padding, dilation=geo.dilation)
    torch.testing.assert_close(branch(x), plain / 2, rtol=1e-10, atol=1e-10)


def test_it_learns_where_to_look() -> None:
    branch = DeformConv(4, 6)
    branch(torch.randn(2, 4, 8, 8)).square().mean().backward()
    for conv in (branch.move, branch.weigh):
        assert conv.weight.grad is not None
        assert conv.weight.grad.abs().max() > 0


def test_torchvision_computes_the_same() -> None:
    """Skipped where torchvision's kernels do not load, as beside a CPU build of torch."""
    ops = pytest.importorskip("torchvision.ops")
    branch = randomised(3, 2, stride=2)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    try:
        theirs = ops.deform_conv2d(
            x, branch.move(x), kernel(branch), stride=2, padding=1, mask=branch.weigh(x).sigmoid()
        )
    except (NotImplementedError, RuntimeError, AttributeError) as error:
        pytest.skip(f"torchvision has no deform_conv2d here: {error}")
    torch.testing.assert_close(branch(x), theirs, rtol=1e-10, atol=1e-10)


def test_costs_are_those_of_the_formula() -> None:
    branch, pixels, taps = DeformConv(16, 8), 12 * 5, 9
    assert xvol.count_params(branch) == 16 * 8 * taps + 3 * taps * (16 * taps + 1)
    assert xvol.count_macs(branch, (16, 12, 5)) == pixels * 16 * taps * (8 + 3 * taps + 5)
