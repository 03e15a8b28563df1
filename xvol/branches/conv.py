"""The convolution branch: W^C x, as the paper has it."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor, nn

from xvol.branches.base import Branch, Folded, Geometry, Host, factory_of
from xvol.branches.norm import Norm
from xvol.branches.options import check_odd
from xvol.branches.static import static_dynamic_kernel
from xvol.fold import fold_norm

__all__ = ["Conv"]


class Conv(Branch):
    """A k x k convolution, centred, with a zero border.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host.
        kernel: size of this branch's own kernel, odd; None takes the host's. Another size than the host's cannot take
            over the host's weights and starts from timm's initialisation.
    """

    name = "conv"
    has_dynamic_kernel = True

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        kernel: int | None = None,
        **host: Unpack[Host],
    ) -> None:
        super().__init__(
            in_chs,
            out_chs,
            kernel=kernel,
            **host,
        )
        size = kernel or self.geometry.kernel_size
        self.conv = self._centred(in_chs, out_chs, size, **factory_of(host))
        self.reset_parameters()

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Refuse an even or non-positive kernel."""
        check_odd("conv", options, "kernel", otherwise="the host's")

    def reset_parameters(self) -> None:
        """Initialise as timm's ResNet does: Kaiming normal over the fan out; a bias starts at zero."""
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve: (B, I, H, W) -> (B, O, H', W')."""
        return self.conv(x_BCHW)

    def take_over(self, host: nn.Conv2d) -> bool:
        """Hold the host itself, its bias included, if the kernels are of one size."""
        if host.kernel_size != self.conv.kernel_size:
            return False
        self.conv = host
        return True

    def fold(self, norm: Norm, static: Geometry | None) -> Folded:
        """All of it is static."""
        bias = None if self.conv.bias is None else self.conv.bias.detach()
        return Folded(static=fold_norm(self.conv.weight.detach(), bias, norm), dynamic=None)

    def dynamic_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The same kernel at each pixel, its dilation written out as zeros."""
        weight = self.conv.weight
        bias_O = weight.new_zeros(self.geometry.out_chs) if self.conv.bias is None else self.conv.bias
        return static_dynamic_kernel((weight, bias_O), self.geometry, x_BCHW)
