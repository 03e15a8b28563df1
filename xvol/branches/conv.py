"""The convolution branch, as the paper has it, and controls for honest ablations: what a second one, a skip or a pool brings.

B = batch, C = channels (I = in, M = middle, O = out), H, W = height, width, g = groups, k = kernel size.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Unpack

from torch import Tensor, nn
from torch.nn import functional

from xvol.allowed import ODD, RATIO
from xvol.branches.base import NORM, Branch, Folded, Geometry, Host, factory_of
from xvol.fold import Kernel, Norm, average_kernel, chain_pointwise, dilate, fold_norm, norm_at_rest
from xvol.hosts import kernel_of


def average(x_BCHW: Tensor, size: int, *, stride: int, dilation: int, padding: int = 0) -> Tensor:
    """The mean of each channel over a size x size window, border zeros counted: (B, C, H, W) -> (B, C, H', W')."""
    if dilation == 1:
        return functional.avg_pool2d(x_BCHW, size, stride, padding, count_include_pad=True)
    chs = x_BCHW.shape[1]
    mean = x_BCHW.new_full((chs, 1, size, size), size**-2)
    return functional.conv2d(x_BCHW, mean, stride=stride, padding=padding, dilation=dilation, groups=chs)


class StaticBranch(Branch):
    """A branch that is one convolution of the host's stride, dilation and groups, whatever its input: see `_kernel`."""

    has_dynamic_kernel = has_sample_kernel = True

    @abstractmethod
    def _kernel(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """That convolution, (O, I / g, k, k) and (O,) or no bias, made of the dtype and device of `like` if it has no weights."""

    def fold(self, norm: Norm, static: Geometry | None) -> Folded:
        """All of it is static."""
        weight, bias = self._kernel(norm_at_rest(norm)[0])
        return Folded(static=fold_norm(weight.detach(), None if bias is None else bias.detach(), norm), dynamic=None)

    def sample_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The same kernel for each sample, its dilation written out as zeros; in eval mode."""
        weight, bias = self._kernel(x_BCHW)
        bias_O = weight.new_zeros(self.geometry.out_chs) if bias is None else bias
        kernel_OIkk, _ = dilate(weight, bias_O, self.geometry.dilation)
        return kernel_OIkk.expand(x_BCHW.shape[0], -1, -1, -1, -1), bias_O


class Conv(StaticBranch):
    """A k x k convolution, centred, with a zero border.

    Args:
        kernel: size of this branch's own kernel, odd; None takes the host's. Another size than the host's cannot take
            over the host's weights and starts from timm's initialisation.
    """

    name = "conv"
    rules: ClassVar = {"kernel": ODD.or_none("the host's")}

    def __init__(self, in_chs: int, out_chs: int, *, kernel: int | None = None, **host: Unpack[Host]) -> None:
        super().__init__(in_chs, out_chs, kernel=kernel, **host)
        size = kernel or self.geometry.kernel_size
        self.conv = self._centred(in_chs, out_chs, size, **factory_of(host))
        self.reset_parameters()

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

    def _kernel(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        return kernel_of(self.conv)


class SecondConv(StaticBranch):
    """W x, or W_2 (W_1 x) with a k x k map W_1 to M channels and a 1x1 map W_2 (ours): no attention, as many weights.

    A further convolution of the host's stride, dilation and groups beside the first one, with its own norm. All of it
    is linear, so the block folds to the one convolution that the host was: what it brings, attention must beat.

    The narrow form has (k^2 I + O) M / g weights and as many MACs per output pixel. `pssa` of rank 1 has
    2 I E + D E + E O (for g = 1), so at I = O its embed_ratio e is matched by width_ratio = 3 e / (k^2 + 1), that is
    0.3 e for a 3x3 kernel; `width_ratio_for` gives the ratio nearest to any count.

    Args:
        kernel: size of this branch's own kernel, odd; None takes the host's.
        width_ratio: M / out_chs, above 0; M is rounded to whole channels in each group, at least one. None builds the
            plain convolution W.
        norm: after the branch in a block: "batch", or "none" for a scale and a shift of each channel.
    """

    name = "second_conv"
    later_options = frozenset({"norm"})
    rules: ClassVar = {
        "kernel": ODD.or_none("the host's"),
        "width_ratio": RATIO.or_none("the plain convolution"),
        "norm": NORM,
    }

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        kernel: int | None = None,
        width_ratio: float | None = None,
        norm: str = "batch",
        **host: Unpack[Host],
    ) -> None:
        super().__init__(in_chs, out_chs, kernel=kernel, width_ratio=width_ratio, norm=norm, **host)
        factory = factory_of(host)
        size, groups = kernel or self.geometry.kernel_size, self.geometry.groups
        middle = out_chs if width_ratio is None else max(1, round(width_ratio * out_chs / groups)) * groups
        self.conv = self._centred(in_chs, middle, size, **factory)
        self.widen: nn.Conv2d | None = None
        if width_ratio is not None:
            self.widen = nn.Conv2d(middle, out_chs, 1, groups=groups, bias=False, **factory)
        self.reset_parameters()

    @staticmethod
    def width_ratio_for(geometry: Geometry, params: int, kernel: int | None = None) -> float:
        """The `width_ratio` that comes nearest to so many parameters, at least one channel in each group."""
        each = ((kernel or geometry.kernel_size) ** 2 * geometry.in_chs + geometry.out_chs) // geometry.groups
        per_group = max(1, round(params / (each * geometry.groups)))
        return per_group * geometry.groups / geometry.out_chs

    def reset_parameters(self) -> None:
        """Initialise as timm's ResNet does: Kaiming normal over the fan out; the 1x1 map keeps the variance."""
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if self.widen is not None:
            nn.init.normal_(self.widen.weight, std=self.widen.weight.shape[1] ** -0.5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve: (B, I, H, W) -> (B, O, H', W')."""
        y_BCHW = self.conv(x_BCHW)
        return y_BCHW if self.widen is None else self.widen(y_BCHW)

    def _kernel(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.widen is None:
            return self.conv.weight, None
        return chain_pointwise(self.conv.weight, self.widen.weight, self.geometry.groups)


class _Weightless(StaticBranch):
    """A fixed map of each channel to itself: no parameters, (B, C, H, W) -> (B, C, H', W')."""

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse hosts that change the number of channels."""
        super().check(geometry, **options)
        if geometry.in_chs != geometry.out_chs:
            raise ValueError(
                f"{cls.__name__.lower()}: in_chs={geometry.in_chs} and out_chs={geometry.out_chs} differ, and the branch "
                "maps each channel to itself: place it where they are equal, or take second_conv with kernel=1"
            )


class Identity(_Weightless):
    """x, and under a stride s every s-th row and column of it: RepVGG's skip (arXiv 2101.03697), then its own norm.

    Needs as many channels out as in. It is exactly a 1x1 convolution with the identity for a matrix, at the host's
    stride, so it folds into the host's kernel.
    """

    name = "identity"

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Keep every stride-th row and column."""
        stride = self.geometry.stride
        return x_BCHW if stride == 1 else x_BCHW[:, :, ::stride, ::stride]

    def _kernel(self, like: Tensor) -> Kernel:
        return average_kernel(self.geometry.out_chs, self.geometry.groups, 1, like)


class Pool(_Weightless):
    """The mean of each channel over a k x k window, zeros of the border counted in: a convolution with fixed weights.

    Needs as many channels out as in. The window has the host's stride and dilation, so that it folds into its kernel.

    Args:
        kernel: size of the window, odd; None takes the host's.
    """

    name = "pool"
    rules: ClassVar = {"kernel": ODD.or_none("the host's")}

    def __init__(self, in_chs: int, out_chs: int, *, kernel: int | None = 3, **host: Unpack[Host]) -> None:
        super().__init__(in_chs, out_chs, kernel=kernel, **host)
        self.kernel = kernel or self.geometry.kernel_size

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Average: (B, C, H, W) -> (B, C, H', W')."""
        geo = self.geometry
        padding = geo.dilation * (self.kernel - 1) // 2
        return average(x_BCHW, self.kernel, stride=geo.stride, dilation=geo.dilation, padding=padding)

    def _kernel(self, like: Tensor) -> Kernel:
        return average_kernel(self.geometry.out_chs, self.geometry.groups, self.kernel, like)

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """Pooling counts nothing, as is the custom: a dilated one, which torch sees as a convolution, is taken away."""
        seen = 0 if self.geometry.dilation == 1 else self.geometry.in_chs * self.kernel**2
        return -seen * out_size[0] * out_size[1]
