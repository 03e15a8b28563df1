"""The X-volution block: a sum of branches, each with its own norm, and its exact deploy twin.

B = batch, C = channels (I = in, O = out), H, W = height, width, g = groups, k = kernel size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from xvol.branches.base import Branch, Geometry
from xvol.fold import Kernel, norm_at_rest, pad_to_centre, sum_parallel
from xvol.registry import branch_class
from xvol.spec import CONV, BlockSpec

__all__ = ["BlockSpec", "FusedXVolution2d", "XVolution2d"]


class XVolution2d(nn.Module):
    """sum_b norm_b(branch_b(x)): (B, I, H, W) -> (B, O, H', W'), H' = floor((H - 1) / stride) + 1.

    The paper's training form is the default spec: [conv -> BN] + [PSSA -> BN]. The padding centres the window.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: as in `nn.Conv2d`, of the convolution it stands in for.
        spec: which branches are summed.
        eps, momentum: of each norm.

    Raises:
        ValueError: one of the branches cannot stand in for such a convolution; the message says which and why.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        spec: BlockSpec | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec = spec or BlockSpec()
        self.geometry = Geometry(
            in_chs=in_chs, out_chs=out_chs, kernel_size=kernel_size, stride=stride, dilation=dilation, groups=groups
        )
        self.branches = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        for name in spec.branches:
            self.branches[name] = branch_class(name)(
                in_chs,
                out_chs,
                kernel_size=kernel_size,
                stride=stride,
                dilation=dilation,
                groups=groups,
                device=device,
                dtype=dtype,
                **spec.branch_options(name),
            )
            norm = nn.BatchNorm2d(out_chs, eps=eps, momentum=momentum, device=device, dtype=dtype)
            if name != CONV:
                nn.init.constant_(norm.weight, spec.initial_gamma)
            self.norms[name] = norm

    def parts(self) -> Iterable[tuple[str, Branch, nn.BatchNorm2d]]:
        """Each branch with its name and its norm, in the order in which they are summed."""
        for name, branch in self.branches.items():
            yield name, cast(Branch, branch), cast(nn.BatchNorm2d, self.norms[name])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Sum the normed branches."""
        terms = [norm(branch(x_BCHW)) for branch, norm in zip(self.branches.values(), self.norms.values(), strict=True)]
        y_BCHW = terms[0]
        for term in terms[1:]:
            y_BCHW = y_BCHW + term
        return y_BCHW

    def take_over(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        """Make `conv` and `norm` themselves, not copies, the block's conv branch and its norm.

        Does nothing in a block without conv branch. Where the branch has a kernel of another size it keeps its own
        fresh
        weights: the norm comes over with its affine part, and its running statistics start anew.
        """
        if CONV not in self.branches:
            return
        taken = cast(Branch, self.branches[CONV]).take_over(conv)
        self.norms[CONV] = norm
        if not taken:
            norm.reset_running_stats()

    def fuse(self) -> nn.Module:
        """The exact deploy twin of the block in eval mode; the block itself is left as it is.

        The paper's deploy form: all that is static becomes one convolution, what depends on x stays beside it without
        norms.

        Returns:
            a plain `nn.Conv2d` if the whole block is static, else a `FusedXVolution2d`.

        Raises:
            ValueError: a norm keeps no running statistics.
        """
        static: Kernel | None = None
        dynamic: list[Branch] = []
        for _, branch, norm in self.parts():
            room = None if static is None else replace(self.geometry, kernel_size=static[0].shape[-1])
            folded = branch.fold(norm, room)
            if folded.static is not None:
                static = folded.static if static is None else sum_parallel(static, folded.static)
            if folded.dynamic is not None:
                dynamic.append(folded.dynamic)
        conv = None if static is None else _as_conv(static, self.geometry)
        fused = FusedXVolution2d(conv, dynamic) if dynamic or conv is None else conv
        return fused.train(self.training)

    def dynamic_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The one convolution that the block is at each output pixel, in eval mode; an oracle for tests.

        The paper's deploy equation: y(x_0) = sum_i (w_i^C + w_i^A(x_0, x_i)) x_i + b. Costs taps * O * I for each
        pixel.

        Returns:
            kernel_BHWOIkk: (B, H', W', O, I / g, k, k), of dilation 1, for a zero border and the block's stride.
            bias_O: (O,).
        """
        kernels, biases = [], []
        for _, branch, norm in self.parts():
            kernel, bias_O = branch.dynamic_kernel(x_BCHW)
            scale_O, shift_O = norm_at_rest(norm)
            kernels.append((kernel * scale_O[:, None, None, None]).flatten(0, 2))
            biases.append(bias_O * scale_O + shift_O)
            places = kernel.shape[:3]
        size = max(kernel.shape[-1] for kernel in kernels)
        grown = [pad_to_centre(kernel.flatten(0, 1), kernel.new_zeros(()), size)[0] for kernel in kernels]
        total = torch.stack(grown).sum(0).unflatten(0, (*places, self.geometry.out_chs))
        return total, torch.stack(biases).sum(0)


class FusedXVolution2d(nn.Module):
    """The deploy form: one static convolution plus what depends on the input, without norms.

    Args:
        static: the static convolution with all biases; None in a block whose branches are all dynamic.
        dynamic: branches with their norms folded in.
    """

    def __init__(self, static: nn.Conv2d | None, dynamic: Iterable[Branch]) -> None:
        super().__init__()
        self.static = static
        self.dynamic = nn.ModuleList(dynamic)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same map as the block it comes from, in eval mode."""
        terms = [branch(x_BCHW) for branch in self.dynamic]
        y_BCHW = terms.pop(0) if self.static is None else self.static(x_BCHW)
        for term in terms:
            y_BCHW = y_BCHW + term
        return y_BCHW


def _as_conv(kernel: Kernel, geometry: Geometry) -> nn.Conv2d:
    weight, bias = kernel
    size = weight.shape[-1]
    conv = nn.Conv2d(
        geometry.in_chs,
        geometry.out_chs,
        size,
        stride=geometry.stride,
        padding=replace(geometry, kernel_size=size).same_padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
        device="meta",
    )
    conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
    return conv
