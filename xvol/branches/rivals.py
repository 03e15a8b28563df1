"""Operators of other papers, and what they share: which hosts they stand in for, how a norm folds behind any of them.

B = batch, C = channels (I = in, O = out), H, W = height, width, k = kernel size, K = window size, G = groups of channels that
share a kernel.
"""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from xvol.allowed import ODD, WHOLE
from xvol.branches.base import Branch, Folded, Geometry, Host, factory_of
from xvol.branches.conv import StaticBranch, average
from xvol.fold import (
    Kernel,
    Norm,
    average_kernel,
    bias_only,
    dilate,
    fold_norm,
    norm_at_rest,
    sum_parallel,
    widen_pointwise,
)


class RivalBranch(Branch):
    """A branch whose last step is not a linear map of its own: the norm folds into a gain and an offset after it.

    `strides` are those it can take, empty for any; `any_groups`: it can stand in for a grouped host; `keeps_chs`: it needs as many
    channels out as in.
    """

    name: ClassVar[str]
    strides: ClassVar[tuple[int, ...]] = ()
    any_groups: ClassVar[bool] = False
    keeps_chs: ClassVar[bool] = False

    def __init__(self, in_chs: int, out_chs: int, **geometry_and_options: Any) -> None:
        super().__init__(in_chs, out_chs, **geometry_and_options)
        self.gain: nn.Parameter | None = None
        self.offset: nn.Parameter | None = None

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse hosts that the operator of the paper cannot stand in for."""
        super().check(geometry, **options)
        if cls.strides and geometry.stride not in cls.strides:
            raise ValueError(
                f"{cls.name}: stride={geometry.stride} is refused: the layer takes {' or '.join(map(str, cls.strides))}"
            )
        if geometry.groups > 1 and not cls.any_groups:
            raise ValueError(
                f"{cls.name}: groups={geometry.groups} is refused: the operator mixes all channels, so it would add "
                "many times the weights of a grouped host"
            )
        if cls.keeps_chs and geometry.in_chs != geometry.out_chs:
            raise ValueError(
                f"{cls.name}: in_chs={geometry.in_chs} and out_chs={geometry.out_chs} differ: the operator gives as many "
                "channels as it takes"
            )

    @classmethod
    def _check_heads(cls, heads: int, geometry: Geometry) -> None:
        if geometry.out_chs % heads:
            raise ValueError(f"{cls.name}: heads={heads} is refused: it does not divide out_chs={geometry.out_chs}")

    def _finish(self, y_BCHW: Tensor) -> Tensor:
        """Apply what a norm left behind, in a deploy twin."""
        if self.gain is not None:
            y_BCHW = y_BCHW * self.gain[:, None, None].to(y_BCHW.dtype)
        return y_BCHW if self.offset is None else y_BCHW + self.offset[:, None, None].to(y_BCHW.dtype)

    def fold(self, norm: Norm, static: Geometry | None) -> Folded:
        """norm(y) = scale y + shift: the scale stays behind the operator, the shift is static where something else is."""
        twin = copy.deepcopy(self)
        scale_O, shift_O = norm_at_rest(norm)
        if self.offset is not None:
            shift_O = shift_O + scale_O * self.offset.detach()
        twin.gain = nn.Parameter(scale_O if self.gain is None else scale_O * self.gain.detach())
        twin.offset = nn.Parameter(shift_O) if static is None else None
        fixed = None if static is None else bias_only(shift_O, self.geometry.in_chs // self.geometry.groups)
        return Folded(static=fixed, dynamic=twin)


class Involution(RivalBranch):
    """y_c(x_0) = sum_t H_{g(c), t}(x_0) x_c(x_0 + t), H(x_0) = W_1 relu(BN(W_0 x_0)): (B, C, H, W) -> (B, C, H', W').

    Involution: Inverting the Inherence of Convolution for Visual Recognition, arXiv 2103.06255: a window spread over
    space as the pixel says, the same for all channels of a group. Under a stride W_0 takes the mean of each stride x
    stride cell, as in the authors' code. The window has the host's dilation and a zero border.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; as many channels out as in. W_0 and W_1 are
            narrow and mix all channels, whatever the host's groups.
        window: K, odd.
        reduction: channels over those of W_0's output, at least 1.
        group_chs: channels that share a kernel; where it does not divide them, their greatest common divisor.
    """

    has_dynamic_kernel = True
    name = "involution"
    keeps_chs = True
    any_groups = True
    rules: ClassVar = {"window": ODD, "reduction": WHOLE, "group_chs": WHOLE}

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        window: int = 7,
        reduction: int = 4,
        group_chs: int = 16,
        **host: Unpack[Host],
    ) -> None:
        super().__init__(in_chs, out_chs, window=window, reduction=reduction, group_chs=group_chs, **host)
        factory = factory_of(host)
        self.window = window
        self.sharing = out_chs // math.gcd(out_chs, group_chs)
        narrow = max(1, in_chs // reduction)
        self.reduce = nn.Conv2d(in_chs, narrow, 1, bias=False, **factory)
        self.norm = nn.BatchNorm2d(narrow, **factory)
        self.span = nn.Conv2d(narrow, self.sharing * window**2, 1, **factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both maps normal, each preserving the variance of its input; the bias starts at zero, the norm as new."""
        for conv in (self.reduce, self.span):
            nn.init.normal_(conv.weight, std=conv.weight.shape[1] ** -0.5)
        assert self.span.bias is not None
        nn.init.zeros_(self.span.bias)
        self.norm.reset_parameters()

    def _kernels(self, x_BCHW: Tensor) -> Tensor:
        """H(x_0): (B, G, K * K, H', W')."""
        if self.geometry.stride > 1:
            x_BCHW = functional.avg_pool2d(x_BCHW, self.geometry.stride, ceil_mode=True)
        return self.span(functional.relu(self.norm(self.reduce(x_BCHW)))).unflatten(1, (self.sharing, -1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Apply to each pixel its kernel: (B, C, H, W) -> (B, C, H', W')."""
        geo = self.geometry
        kernels_BGtHW = self._kernels(x_BCHW)
        padding = geo.dilation * (self.window - 1) // 2
        patches = functional.unfold(x_BCHW.to(kernels_BGtHW.dtype), self.window, geo.dilation, padding, geo.stride)
        patches_BGctHW = patches.view(patches.shape[0], self.sharing, -1, self.window**2, *kernels_BGtHW.shape[3:])
        return self._finish((kernels_BGtHW[:, :, None] * patches_BGctHW).sum(3).flatten(1, 2))

    def dynamic_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """diag(H_{g(c), t}(x_0)) at tap t, within the host's groups; the dilation is written out as zeros."""
        geo = self.geometry
        kernels_BGtHW = self._kernels(x_BCHW)
        batch, _, _, height, width = kernels_BGtHW.shape
        each_BHWCt = kernels_BGtHW.repeat_interleave(geo.out_chs // self.sharing, dim=1).permute(0, 3, 4, 1, 2)
        if self.gain is not None:
            each_BHWCt = each_BHWCt * self.gain[:, None]
        own_CI = torch.eye(geo.in_chs // geo.groups).to(each_BHWCt).repeat(geo.groups, 1)
        kernel = torch.einsum("bhwct,ci->bhwcit", each_BHWCt, own_CI).unflatten(-1, (self.window, self.window))
        bias_O = each_BHWCt.new_zeros(geo.out_chs) if self.offset is None else self.offset
        spread, _ = dilate(kernel.flatten(0, 3), bias_O, geo.dilation)
        return spread.unflatten(0, (batch, height, width, geo.out_chs)), bias_O

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """One product for each channel and tap."""
        return self.geometry.out_chs * self.window**2 * out_size[0] * out_size[1]


class DiverseBranch(StaticBranch):
    """BN(W x) + BN(W_1 x) + BN(W_3 BN(W_2 x)) + BN(mean(BN(W_4 x))): (B, I, H, W) -> (B, O, H', W').

    Diverse Branch Block: Building a Convolution as an Inception-like Unit, arXiv 2103.13425: k x k, 1x1, 1x1 then k x k,
    and 1x1 then an average pool, each with its norms, together exactly one k x k convolution in eval mode. Between two
    steps the border is what the first one makes of zeros, from its norm's running statistics, as in the authors' code.
    W_2 keeps the number of channels and starts as any other map (theirs starts near the identity).

    Args:
        kernel: k, odd; None takes the host's.
    """

    name = "dbb"
    rules: ClassVar = {"kernel": ODD.or_none("the host's")}

    def __init__(self, in_chs: int, out_chs: int, *, kernel: int | None = None, **host: Unpack[Host]) -> None:
        super().__init__(in_chs, out_chs, kernel=kernel, **host)
        factory = factory_of(host)
        self.kernel = kernel or self.geometry.kernel_size
        point: dict[str, Any] = {"groups": self.geometry.groups, "bias": False, **factory}
        self.whole = self._centred(in_chs, out_chs, self.kernel, **factory)
        self.point = self._centred(in_chs, out_chs, 1, **factory)
        self.chain_first = nn.Conv2d(in_chs, in_chs, 1, **point)
        self.chain_last = self._centred(in_chs, out_chs, self.kernel, **factory)
        self.padding = self.geometry.dilation * (self.kernel - 1) // 2
        self.chain_last.padding = (0, 0)  # `_pad` does it
        self.mean_first = nn.Conv2d(in_chs, out_chs, 1, **point)
        self.chain_norm = nn.BatchNorm2d(in_chs, **factory)
        self.mean_norm = nn.BatchNorm2d(out_chs, **factory)
        self.norms = nn.ModuleList([nn.BatchNorm2d(out_chs, **factory) for _ in range(4)])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all maps by Kaiming's rule over the fan out; norms start as new."""
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(part, nn.BatchNorm2d):
                part.reset_parameters()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Sum the four: (B, I, H, W) -> (B, O, H', W')."""
        geo = self.geometry
        chain_BCHW = self._pad(self.chain_norm(self.chain_first(x_BCHW)), self.chain_norm)
        mean_BCHW = self._pad(self.mean_norm(self.mean_first(x_BCHW)), self.mean_norm)
        terms = (
            self.whole(x_BCHW),
            self.point(x_BCHW),
            self.chain_last(chain_BCHW),
            average(mean_BCHW, self.kernel, stride=geo.stride, dilation=geo.dilation),
        )
        whole, point, chain, mean = (norm(term) for norm, term in zip(self.norms, terms, strict=True))
        return whole + point + chain + mean

    def _pad(self, y_BCHW: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        """Surround with what the norm, at rest, makes of zero."""
        border_C11 = norm_at_rest(norm)[1][:, None, None].to(y_BCHW.dtype)
        return functional.pad(y_BCHW - border_C11, [self.padding] * 4) + border_C11

    def _kernel(self, like: Tensor) -> Kernel:
        groups, chs = self.geometry.groups, self.geometry.out_chs
        chain_first = fold_norm(self.chain_first.weight, None, self.chain_norm)
        mean_first = fold_norm(self.mean_first.weight, None, self.mean_norm)
        mean_last, _ = average_kernel(chs, groups, self.kernel, self.whole.weight)
        kernels: tuple[tuple[Tensor, Tensor | None], ...] = (
            (self.whole.weight, None),
            (self.point.weight, None),
            widen_pointwise(chain_first, self.chain_last.weight, groups),
            widen_pointwise(mean_first, mean_last, groups),
        )
        norms = [norm for norm in self.norms if isinstance(norm, nn.BatchNorm2d)]
        return sum_parallel(*(fold_norm(*kernel, norm) for kernel, norm in zip(kernels, norms, strict=True)))

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """Pooling counts nothing, as is the custom: a dilated one, which torch sees as a convolution, is taken away."""
        seen = 0 if self.geometry.dilation == 1 else self.geometry.out_chs * self.kernel**2
        return -seen * out_size[0] * out_size[1]
