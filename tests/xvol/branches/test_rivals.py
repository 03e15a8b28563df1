"""The diverse branches against torch's own layers, padded first, and the one convolution that they are."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

import xvol
from xvol.branches.rivals import DiverseBranch, Involution


@pytest.mark.parametrize("geometry", [{}, {"stride": 2, "groups": 2}, {"kernel": 5}, {"kernel_size": 1}], ids=str)
def test_is_the_sum_of_four(geometry: dict[str, int], randomise: Callable[[nn.Module], nn.Module]) -> None:
    """At rest the border between two steps is what zeros become: so padding the image first gives the same."""
    branch = randomise(DiverseBranch(4, 6, dtype=torch.float64, **geometry)).eval()
    size, stride = branch.kernel, branch.geometry.stride
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    padded = functional.pad(x, [size // 2] * 4)
    terms = (
        branch.whole(x),
        branch.point(x),
        branch.chain_last(branch.chain_norm(branch.chain_first(padded))),
        nn.AvgPool2d(size, stride)(branch.mean_norm(branch.mean_first(padded))),
    )
    expected = sum(norm(term) for norm, term in zip(branch.norms, terms, strict=True))
    torch.testing.assert_close(branch(x), expected)


def test_trains_with_the_statistics_of_the_image_alone() -> None:
    """The padding between two steps does not enter the statistics of the norm before it."""
    branch = DiverseBranch(4, 4)
    x = torch.randn(4, 4, 6, 6)
    branch.train()(x)
    torch.testing.assert_close(branch.chain_norm.running_mean, 0.1 * branch.chain_first(x).mean((0, 2, 3)))


def test_beside_a_convolution_it_folds_to_one(randomise: Callable[[nn.Module], nn.Module]) -> None:
    spec = xvol.BlockSpec(("conv", "dbb"), gamma=1.0)
    block = randomise(xvol.XVolution2d(4, 6, dilation=2, stride=2, spec=spec, dtype=torch.float64)).eval()
    fused = block.fuse()
    assert type(fused) is nn.Conv2d
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(fused(x), block(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dilation", [1, 2])
def test_costs_its_convolutions(dilation: int) -> None:
    """Nothing is counted for the pool, whatever torch makes it of."""
    branch = DiverseBranch(8, 16, dilation=dilation)
    weights = 2 * 9 * 8 * 16 + 8 * 8 + 2 * 8 * 16
    assert xvol.count_macs(branch, (8, 5, 7)) == 35 * weights


def test_refuses() -> None:
    with pytest.raises(ValueError, match="dbb: kernel=4 must be an odd whole number of at least 1, or None"):
        DiverseBranch(4, 4, kernel=4)


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
def test_refuses_of_involution(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Involution(4, **{"out_chs": 4} | wrong)
