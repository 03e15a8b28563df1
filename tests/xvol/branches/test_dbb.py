"""The diverse branches against torch's own layers, padded first, and the one convolution that they are."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

import xvol
from xvol.branches.dbb import DiverseBranch


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
