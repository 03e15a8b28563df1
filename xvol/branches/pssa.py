"""Pixel Shift Self-Attention in product form, rank R, without shifted copies.

B = batch, C = channels (I = in, E = embedding, O = out), R = rank, D = directions, H, W = height, width, g = groups.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xvol.branches.base import Branch, Folded, Geometry
from xvol.branches.window import BORDERS, POSITIONS, place, tap_window
from xvol.fold import bias_only, dilate, fold_norm, product_static_part, sum_parallel
from xvol.kernels import Execution, one_pass_is_faster, pssa_one_pass
from xvol.registry import register_branch
from xvol.triton_kernels import shifted_product, triton_runs_on

__all__ = ["PSSA"]


@register_branch("pssa")
class PSSA(Branch):
    """sum_d P_d (q * S_d k) with P_d = sum_r P^r diag(a^r_d), q = Q x + b_q, k = K x, S_d k(y) = k(y + shift * d).

    The paper's PSSA: embed, shift the map in some directions, multiply with the unshifted map, take a weighted sum.
    Because q does not depend on d it equals sum_r P^r (q * DW_{a^r}(k)) (ours): one depthwise convolution on k, dilated
    by the shift. Rank 1 is the default; rank D equals a dense P_d for each direction. The embeddings are 1x1
    convolutions with the groups of the host. The border is that of k: embed first, pad after; K has no bias, so padding
    first would be the same. Under a stride, Q and the depthwise stage are strided and K sees full resolution.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host. The reach of the branch is its own `shift`,
            whatever the host's kernel and dilation.
        rank: R, at least 1.
        embed_ratio: E / out_chs, above 0; E is rounded to whole channels in each group, at least one.
        shift: L in pixels of the input, at least 1.
        directions: 4 (up, left, right, down), 8 (with the diagonals) or 9 (with the centre).
        border: what k is outside of the image: "zero", or "replicate" its nearest pixel.
        q_bias: give q a bias.

    Attributes:
        execution: how to compute, e.g. with less memory (`xvol.kernels.set_execution`). Results agree up to rounding,
            so it is no option, and no architecture's hash knows it.
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
        rank: int = 1,
        embed_ratio: float = 1.0,
        shift: int = 1,
        directions: int = 8,
        border: str = "zero",
        q_bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_chs,
            out_chs,
            kernel_size=kernel_size,
            stride=stride,
            dilation=dilation,
            groups=groups,
            rank=rank,
            embed_ratio=embed_ratio,
            shift=shift,
            directions=directions,
            border=border,
            q_bias=q_bias,
        )
        self.rank, self.shift, self.directions, self.border = rank, shift, directions, border
        self.embed_chs = max(1, round(embed_ratio * out_chs / groups)) * groups
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.query = nn.Conv2d(in_chs, self.embed_chs, 1, stride=stride, groups=groups, bias=q_bias, **factory)
        self.key = nn.Conv2d(in_chs, self.embed_chs, 1, groups=groups, bias=False, **factory)
        self.taps = nn.Parameter(torch.empty(self.embed_chs * rank, directions, **factory))
        self.project = nn.Conv2d(self.embed_chs * rank, out_chs, 1, groups=groups, bias=False, **factory)
        self.execution = Execution()
        self.reset_parameters()

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Refuse what the class docstring does not allow."""
        for name in ("rank", "shift"):
            value = options.get(name, 1)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"pssa: {name}={value!r} must be a whole number of at least 1")
        ratio = options.get("embed_ratio", 1.0)
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < math.inf:
            raise ValueError(f"pssa: embed_ratio={ratio!r} must be a number above 0, such as 0.25")
        directions = options.get("directions", 8)
        if isinstance(directions, bool) or directions not in POSITIONS:
            raise ValueError(f"pssa: directions={directions!r} must be one of 4, 8, 9")
        border = options.get("border", "zero")
        if border not in BORDERS:
            raise ValueError(f"pssa: border={border!r} must be one of {', '.join(map(repr, BORDERS))}")
        if not isinstance(options.get("q_bias", False), bool):
            raise ValueError(f"pssa: q_bias={options['q_bias']!r} must be True or False")

    def reset_parameters(self) -> None:
        """Draw all weights normal, each map preserving the variance of its input; the query bias starts at zero."""
        for conv in (self.query, self.key, self.project):
            nn.init.normal_(conv.weight, std=conv.weight.shape[1] ** -0.5)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        nn.init.normal_(self.taps, std=self.directions**-0.5)

    def window(self) -> Tensor:
        """The taps as a depthwise kernel, (E * R, 1, 3, 3): channel by channel, ranks inside."""
        return tap_window(self.taps)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W'), for any H, W from 1 up."""
        if self._takes_one_pass(x_BCHW):
            return self._one_pass(x_BCHW)
        q_BCHW, k_BCHW = self._embed(x_BCHW)
        padding = self.shift
        if self.border == "replicate":
            k_BCHW, padding = functional.pad(k_BCHW, [padding] * 4, mode="replicate"), 0
        if self.execution.triton and triton_runs_on(q_BCHW):
            return self.project(
                shifted_product(q_BCHW, k_BCHW, self.window(), self.geometry.stride, self.shift, padding)
            )
        neighbours_BCHW = functional.conv2d(
            k_BCHW,
            self.window(),
            stride=self.geometry.stride,
            padding=padding,
            dilation=self.shift,
            groups=self.embed_chs,
        )
        if self.rank > 1:
            q_BCHW = q_BCHW.repeat_interleave(self.rank, dim=1)
        return self.project(q_BCHW * neighbours_BCHW)

    def _embed(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Q x + b_q and K x; where it pays, by one convolution, which reads x once and sums its gradient at once."""
        narrow = self.embed_chs < self.geometry.in_chs and self.geometry.stride == self.geometry.groups == 1
        if not (narrow and self._may_bypass_modules(x_BCHW)):
            return self.query(x_BCHW), self.key(x_BCHW)
        bias_E = None if self.query.bias is None else functional.pad(self.query.bias, (0, self.embed_chs))
        both_BCHW = functional.conv2d(x_BCHW, torch.cat([self.query.weight, self.key.weight]), bias_E)
        q_BCHW, k_BCHW = both_BCHW.chunk(2, dim=1)
        return q_BCHW, k_BCHW

    def _takes_one_pass(self, x_BCHW: Tensor) -> bool:
        recompute = self.execution.recompute
        if recompute is None:
            pixels = x_BCHW.shape[2] * x_BCHW.shape[3] if self._may_bypass_modules(x_BCHW) else 0
            return pixels > 0 and one_pass_is_faster(self.embed_chs * self.rank, pixels)
        return recompute and torch.is_grad_enabled() and not torch.compiler.is_exporting()

    def _may_bypass_modules(self, x_BCHW: Tensor) -> bool:
        """Eager mode on a CPU, where nobody watches or replaced the 1x1 convolutions."""
        return (
            isinstance(x_BCHW, Tensor)  # and no torch.fx.Proxy
            and x_BCHW.device.type == "cpu"
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
            and all(
                type(conv) is nn.Conv2d and not conv._forward_hooks and not conv._forward_pre_hooks
                for conv in (self.query, self.key, self.project)
            )
        )

    def _one_pass(self, x_BCHW: Tensor) -> Tensor:
        return pssa_one_pass(
            x_BCHW,
            self.query.weight.flatten(1),
            self.query.bias,
            self.key.weight.flatten(1),
            self.taps,
            self.project.weight.flatten(1),
            self.project.bias,
            stride=self.geometry.stride,
            shift=self.shift,
            replicate=self.border == "replicate",
        )

    def fold(self, norm: nn.BatchNorm2d, static: Geometry | None) -> Folded:
        """The norm's scale goes into P; its shift and, where it fits, the query bias's part into the static kernel.

        Without a static convolution in the block the shift becomes a bias of P, and the query bias stays where it is.
        """
        twin = copy.deepcopy(self)
        weight, shift_O = fold_norm(self.project.weight.detach(), self._projection_bias(), norm)
        twin.project.weight = nn.Parameter(weight)
        twin.project.bias = nn.Parameter(shift_O) if static is None else None
        if static is None:
            return Folded(static=None, dynamic=twin)
        fixed = bias_only(shift_O, self.geometry.in_chs // self.geometry.groups)
        if self.query.bias is not None and self._window_fits(static):
            window = product_static_part(
                weight, self.window().detach(), self.query.bias.detach(), self.key.weight.detach(), self.geometry.groups
            )
            fixed = sum_parallel(fixed, dilate(*window, self.shift // static.dilation))
            twin.query.bias = None
        return Folded(static=fixed, dynamic=twin)

    def _projection_bias(self) -> Tensor | None:
        return None if self.project.bias is None else self.project.bias.detach()

    def _window_fits(self, static: Geometry) -> bool:
        """Tell whether the shifted 3x3 window lies on the taps of the static convolution and has its border."""
        on_taps = self.shift % static.dilation == 0 and self.shift <= static.same_padding
        return on_taps and self.border == "zero"

    def dynamic_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """P_d diag(Q x_0 + b_q) K at each pixel (ours). A replicated border is written as taps moved into the image."""
        geo = self.geometry
        q_BEHW = self.query(x_BCHW)
        shape = (geo.groups, self.embed_chs // geo.groups)
        coefficient_BgDoiHW = torch.einsum(
            "gocr,gcrd,bgchw,gci->bgdoihw",
            self.project.weight.view(geo.groups, geo.out_chs // geo.groups, shape[1], self.rank),
            self.taps.view(*shape, self.rank, self.directions),
            q_BEHW.unflatten(1, shape),
            self.key.weight.view(*shape, -1),
        )
        kernel = place(
            coefficient_BgDoiHW.transpose(1, 2).flatten(2, 3),
            (x_BCHW.shape[2], x_BCHW.shape[3]),
            directions=self.directions,
            shift=self.shift,
            stride=geo.stride,
            border=self.border,
        )
        bias_O = q_BEHW.new_zeros(geo.out_chs) if self.project.bias is None else self.project.bias
        return kernel, bias_O

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """One product for each embedding and rank, less the taps outside of `directions`: zero by construction."""
        return self.embed_chs * self.rank * (1 - (9 - self.directions)) * out_size[0] * out_size[1]
