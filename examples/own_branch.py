"""A branch of your own: what README's section on branches tells, checked by the suite that xvol's own branches pass.

Run it: python examples/own_branch.py     (a few seconds on a CPU)
"""

from typing import Unpack

import torch
from torch import nn

import xvol
from xvol.branches.base import Branch, Host, factory_of
from xvol.testing import check_branch


@xvol.register_branch("mine")
class Mine(Branch):
    """A 1x1 convolution, each channel of it scaled by what the whole image is like: W x * G(mean x)."""

    def __init__(self, in_chs: int, out_chs: int, *, width: int = 4, **host: Unpack[Host]) -> None:
        super().__init__(in_chs, out_chs, width=width, **host)
        geo, factory = self.geometry, factory_of(host)
        self.value = nn.Conv2d(in_chs, out_chs, 1, stride=geo.stride, groups=geo.groups, bias=False, **factory)
        self.narrow = nn.Conv2d(in_chs, width, 1, **factory)
        self.widen = nn.Conv2d(width, out_chs, 1, **factory)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, I, H, W) -> (B, O, H', W'), as the convolution that the block stands for."""
        mean_BC11 = x_BCHW.mean((2, 3), keepdim=True)
        return self.value(x_BCHW) * self.widen(self.narrow(mean_BC11).tanh())


def main() -> None:
    """Check the branch, put it beside a convolution, fuse."""
    check_branch("mine", values={"width": [1, 8]})  # AssertionError says what is wrong, and with which options
    print("mine passes every check")
    spec = xvol.BlockSpec.make(["conv", "mine"], {"mine": {"width": 2}}, gamma=1.0)
    block = xvol.XVolution2d(16, 32, stride=2, spec=spec).eval()
    fused = block.fuse()
    images = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        print(f"fused, the block differs by {(block(images) - fused(images)).abs().max():.1e}")
    print(fused)


if __name__ == "__main__":
    main()
