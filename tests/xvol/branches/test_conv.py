import pytest
import torch
from torch import nn

from xvol.branches.conv import Conv


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
