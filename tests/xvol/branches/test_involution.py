"""Involution against its sum written out pixel by pixel, and its costs."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

import xvol
from xvol.branches.involution import Involution


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_is_the_sum_over_the_window(stride: int, dilation: int, randomise: Callable[[nn.Module], nn.Module]) -> None:
    branch = Involution(6, 6, stride=stride, dilation=dilation, window=3, group_chs=2, dtype=torch.float64)
    randomise(branch).eval()
    x = torch.randn(1, 6, 5, 4, dtype=torch.float64)
    cells = functional.avg_pool2d(x, stride, ceil_mode=True) if stride > 1 else x
    kernels = branch.span(branch.norm(branch.reduce(cells)).relu())[0].view(3, 3, 3, *cells.shape[2:])
    padded = functional.pad(x, [dilation] * 4)[0]
    y = branch(x)[0]
    for channel in range(6):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                rows = slice(stride * i, stride * i + 2 * dilation + 1, dilation)
                columns = slice(stride * j, stride * j + 2 * dilation + 1, dilation)
                expected = (kernels[channel // 2, :, :, i, j] * padded[channel, rows, columns]).sum()
                torch.testing.assert_close(y[channel, i, j], expected)


@pytest.mark.parametrize(("chs", "group_chs", "sharing"), [(64, 16, 4), (8, 16, 1), (24, 16, 3), (7, 16, 7)])
def test_groups_share_a_kernel(chs: int, group_chs: int, sharing: int) -> None:
    branch = Involution(chs, chs, group_chs=group_chs)
    assert branch.sharing == sharing
    assert branch.span.out_channels == 49 * sharing


def test_costs() -> None:
    """C C / r for W_0, C / r K^2 G for W_1, C K^2 for the window, per pixel."""
    branch = Involution(32, 32, window=5)
    assert xvol.count_macs(branch, (32, 5, 7)) == 35 * (32 * 8 + 8 * 25 * 2 + 32 * 25)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window": 2}, "involution: window=2 must be an odd whole number"),
        ({"reduction": 0}, "involution: reduction=0 must be a whole number"),
        ({"out_chs": 8}, "involution: in_chs=4 and out_chs=8 differ"),
    ],
)
def test_refuses(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Involution(4, **{"out_chs": 4} | wrong)
