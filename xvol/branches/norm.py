"""The norm after a branch: BatchNorm2d, or none but a scale and a shift for each channel.

C = channels, H, W = height, width.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["NORMS", "Norm", "ScaleShift2d", "new_norm"]

NORMS = ("batch", "none")


class ScaleShift2d(nn.Module):
    """weight_c x_c + bias_c, in training as at rest: (B, C, H, W) -> (B, C, H, W).

    What is left of a BatchNorm2d without its statistics. It keeps the weight that a conversion sets to 0 to preserve a
    trained model's function, and that `BlockSpec.gamma` sets.

    Args:
        channels: C.
    """

    def __init__(
        self, channels: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Scale and shift, in the dtype of the input as BatchNorm2d does."""
        weight_C11, bias_C11 = self.weight[:, None, None], self.bias[:, None, None]
        return x_BCHW * weight_C11.to(x_BCHW.dtype) + bias_C11.to(x_BCHW.dtype)

    def extra_repr(self) -> str:
        """The channels."""
        return str(self.weight.shape[0])


Norm: TypeAlias = nn.BatchNorm2d | ScaleShift2d


def new_norm(
    kind: str,
    channels: int,
    *,
    eps: float = 1e-5,
    momentum: float | None = 0.1,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Norm:
    """A fresh norm: "batch" for a BatchNorm2d with `eps` and `momentum`, "none" for a `ScaleShift2d`."""
    if kind == "none":
        return ScaleShift2d(channels, device=device, dtype=dtype)
    return nn.BatchNorm2d(channels, eps=eps, momentum=momentum, device=device, dtype=dtype)
