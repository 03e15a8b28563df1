"""A convolution trained as four and deployed as one: the Diverse Branch Block.

B = batch, C = channels (I = in, O = out), H, W = height, width, k = kernel size.
"""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor, nn
from torch.nn import functional

from xvol.branches.base import Branch, Folded, Geometry, Host, factory_of
from xvol.branches.norm import Norm
from xvol.branches.options import check_odd
from xvol.branches.static import average, static_dynamic_kernel
from xvol.fold import Kernel, average_kernel, fold_norm, norm_at_rest, sum_parallel, widen_pointwise

__all__ = ["DiverseBranch"]


class DiverseBranch(Branch):
    """BN(W x) + BN(W_1 x) + BN(W_3 BN(W_2 x)) + BN(mean(BN(W_4 x))): (B, I, H, W) -> (B, O, H', W').

    Diverse Branch Block: Building a Convolution as an Inception-like Unit, arXiv 2103.13425: k x k, 1x1, 1x1 then k x k,
    and 1x1 then an average pool, each with its norms, together exactly one k x k convolution in eval mode. Between two
    steps the border is what the first one makes of zeros, from its norm's running statistics, as in the authors' code.
    W_2 keeps the number of channels and starts as any other map (theirs starts near the identity).

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host.
        kernel: k, odd; None takes the host's.
    """

    name = "dbb"
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

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Refuse an even or non-positive kernel."""
        check_odd("dbb", options, "kernel", otherwise="the host's")

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

    def _kernel(self) -> Kernel:
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

    def fold(self, norm: Norm, static: Geometry | None) -> Folded:
        """All of it is static."""
        weight, bias_O = self._kernel()
        return Folded(static=fold_norm(weight.detach(), bias_O.detach(), norm), dynamic=None)

    def dynamic_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The same kernel at each pixel, its dilation written out as zeros; in eval mode."""
        return static_dynamic_kernel(self._kernel(), self.geometry, x_BCHW)

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """Pooling counts nothing, as is the custom: a dilated one, which torch sees as a convolution, is taken away."""
        seen = 0 if self.geometry.dilation == 1 else self.geometry.out_chs * self.kernel**2
        return -seen * out_size[0] * out_size[1]
