"""What the adapters over attention layers of timm share.

B = batch, C = channels (I = in, O = out), H, W = height, width.
"""

from __future__ import annotations

from typing import Any

from timm.layers import make_divisible
from torch import Tensor, nn

from xvol.branches.base import Geometry
from xvol.branches.rivals import RivalBranch

__all__ = ["TimmBranch", "pool_as_timm"]


class TimmBranch(RivalBranch):
    """An adapter over one layer of timm: (B, I, H, W) -> (B, O, H', W'), strided by 1 or 2."""

    strides = (1, 2)
    layer: nn.Module

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse heads that do not divide the channels, and what no layer of timm's takes."""
        super().check(geometry, **options)
        heads = options.get("heads", 1)
        cls._check_heads(heads, geometry)
        if make_divisible(geometry.out_chs * options.get("qk_ratio", 1.0), 8) < heads:
            raise ValueError(f"{cls.name}: heads={heads} is refused: timm leaves them no query channels")

    def reset_parameters(self) -> None:
        """Initialise as timm does; biases start at zero, inner norms as new."""
        for part in self.layer.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.reset_parameters()
            elif isinstance(part, nn.Conv2d) and part.bias is not None:
                nn.init.zeros_(part.bias)
        self.layer.reset_parameters()  # type: ignore[operator]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W')."""
        return self._finish(self.layer(x_BCHW))


def pool_as_timm(stride: int) -> nn.Module:
    """timm's pool under stride 2; at odd sizes the last row and column are means of what is there."""
    return nn.Identity() if stride == 1 else nn.AvgPool2d(stride, stride, ceil_mode=True)
