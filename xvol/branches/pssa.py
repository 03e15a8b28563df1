"""Pixel Shift Self-Attention in product form: of rank R, without shifted copies; and dense, by them, as the paper's text has it.

B = batch, C = channels (I = in, E = embedding, O = out), R = rank, D = directions, H, W = height, width, g = groups.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from xvol.branches.attention import ShiftedBranch, pad_edges, shifted, tap_window
from xvol.branches.base import Geometry, Host, factory_of
from xvol.branches.options import WHOLE
from xvol.fold import Kernel
from xvol.kernels import Execution, one_pass_is_faster, pssa_one_pass
from xvol.triton_kernels import shifted_product, triton_runs_on


class PSSA(ShiftedBranch):
    """sum_d P_d (q * S_d k) with P_d = sum_r P^r diag(a^r_d), q = Q x + b_q, k = K x, S_d k(y) = k(y + shift * d).

    The paper's PSSA: embed, shift the map in some directions, multiply with the unshifted map, take a weighted sum.
    Because q does not depend on d it equals sum_r P^r (q * DW_{a^r}(k)) (ours): one depthwise convolution on k, dilated
    by the shift. Rank 1 is the default; rank D equals a dense P_d for each direction. The embeddings are 1x1
    convolutions with the groups of the host. The border is that of k: embed first, pad after; K has no bias, so padding
    first would be the same. Under a stride, Q and the depthwise stage are strided and K sees full resolution.

    The weighted sum P may reach over the output pixels around (`mix_kernel`): the paper says that a convolution can take
    it, of no stated size. The branch stays one dynamic convolution, whose kernel then depends on the queries around.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host. The reach of the branch is its own `shift`,
            whatever the host's kernel and dilation.
        rank: R, at least 1.
        embed_ratio: E / out_chs, above 0; E is rounded to whole channels in each group, at least one.
        shift: L in pixels of the input, at least 1.
        directions: 4 (up, left, right, down), 8 (with the diagonals) or 9 (with the centre).
        border: what k is outside of the image: "zero", or "replicate" its nearest pixel.
        q_bias: give q a bias. Beside a convolution that has room for it, it folds away where `mix_kernel` is 1 and the
            border zero.
        mix_kernel: m, odd: P is an m x m convolution of the products, with zeros outside of the map.
        norm: after the branch in a block: "batch", or "none" for a scale and a shift of each channel.
        triton: multiply and sum the neighbours in one Triton kernel, which no GPU has measured yet. Where it cannot run
            (no GPU, no Triton) and with `Execution(recompute=True)`, the branch computes without it, the same up to
            rounding.

    Attributes:
        execution: how to compute, e.g. with less memory (`xvol.kernels.set_execution`). Results agree up to rounding,
            so it is no option, and no architecture's hash knows it.
    """

    name = "pssa"
    later_options = ShiftedBranch.later_options | {"triton"}
    rules = ShiftedBranch.rules | {"rank": WHOLE}

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        rank: int = 1,
        embed_ratio: float = 1.0,
        shift: int = 1,
        directions: int = 8,
        border: str = "zero",
        q_bias: bool = False,
        mix_kernel: int = 1,
        norm: str = "batch",
        triton: bool = False,
        **host: Unpack[Host],
    ) -> None:
        super().__init__(
            in_chs,
            out_chs,
            rank=rank,
            embed_ratio=embed_ratio,
            shift=shift,
            directions=directions,
            border=border,
            q_bias=q_bias,
            mix_kernel=mix_kernel,
            norm=norm,
            triton=triton,
            **host,
        )
        self.rank, self.triton = rank, triton
        factory = factory_of(host)
        self.query = self._embed(self.embed_chs, stride=self.geometry.stride, bias=q_bias, **factory)
        self.key = self._embed(self.embed_chs, **factory)
        self.taps = nn.Parameter(torch.empty(self.embed_chs * rank, directions, **factory))
        self.project = self._projection(self.embed_chs * rank, **factory)
        self.execution = Execution()
        self.reset_parameters()

    def embeddings(self) -> tuple[nn.Conv2d, ...]:
        """Q and K."""
        return self.query, self.key

    def reset_parameters(self) -> None:
        """Draw all weights normal, each map preserving the variance of its input; the query bias starts at zero."""
        super().reset_parameters()
        nn.init.normal_(self.taps, std=self.directions**-0.5)

    def window(self) -> Tensor:
        """The taps as a depthwise kernel, (E * R, 1, 3, 3): channel by channel, ranks inside."""
        return tap_window(self.taps)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W'), for any H, W from 1 up."""
        if self._takes_one_pass(x_BCHW):
            return self._one_pass(x_BCHW)
        if self._recomputes():  # one pass has a 1x1 projection
            result: Tensor = checkpoint(self._plain, x_BCHW, use_reentrant=False, preserve_rng_state=False)
            return result
        return self._plain(x_BCHW)

    def _plain(self, x_BCHW: Tensor) -> Tensor:
        q_BCHW, k_BCHW = self._embed_both(x_BCHW)
        padding = self.shift
        if self.border == "replicate":
            k_BCHW, padding = pad_edges(k_BCHW, padding), 0
        if self.triton and triton_runs_on(q_BCHW):
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
        if not torch.is_grad_enabled():  # nothing is saved for a backward pass
            return self.project(neighbours_BCHW.mul_(q_BCHW))
        return self.project(q_BCHW * neighbours_BCHW)

    def _embed_both(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Q x + b_q and K x; where it pays, by one convolution, which reads x once and sums its gradient at once."""
        narrow = self.embed_chs < self.geometry.in_chs and self.geometry.stride == self.geometry.groups == 1
        if not (narrow and self._may_bypass_modules(x_BCHW)):
            return self.query(x_BCHW), self.key(x_BCHW)
        bias_E = None if self.query.bias is None else functional.pad(self.query.bias, (0, self.embed_chs))
        both_BCHW = functional.conv2d(x_BCHW, torch.cat([self.query.weight, self.key.weight]), bias_E)
        q_BCHW, k_BCHW = both_BCHW.chunk(2, dim=1)
        return q_BCHW, k_BCHW

    def _takes_one_pass(self, x_BCHW: Tensor) -> bool:
        if self.mix_kernel > 1:
            return False
        if self.execution.recompute is None:
            pixels = x_BCHW.shape[2] * x_BCHW.shape[3] if self._may_bypass_modules(x_BCHW) else 0
            return pixels > 0 and one_pass_is_faster(self.embed_chs * self.rank, pixels)
        return self._recomputes()

    def _recomputes(self) -> bool:
        return bool(self.execution.recompute) and torch.is_grad_enabled() and not torch.compiler.is_exporting()

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

    def _take_static_part(self, static: Geometry) -> Kernel | None:
        """The query bias's part, a convolution where the borders of k and of the products are that of x."""
        if self.border != "zero" or self.mix_kernel > 1:
            return None
        return self._take_query_bias(self.window(), self.shift, static)

    def _products(self, x_BCHW: Tensor) -> Tensor:
        """diag(a^r_d) diag(Q x_0 + b_q) K for each direction (ours)."""
        groups = self.geometry.groups
        shape = (groups, self.embed_chs // groups)
        products_BDgcriHW = torch.einsum(
            "gcrd,bgchw,gci->bdgcrihw",
            self.taps.view(*shape, self.rank, self.directions),
            self.query(x_BCHW).unflatten(1, shape),
            self.key.weight.view(*shape, -1),
        )
        return products_BDgcriHW.flatten(2, 4)

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """One product for each embedding and rank, less the taps outside of `directions`: zero by construction."""
        return self.embed_chs * self.rank * (1 - (9 - self.directions)) * out_size[0] * out_size[1]


class PSSADense(ShiftedBranch):
    """sum_d P_d (q * S_d k), q = Q x + b_q, k = K x, S_d k(y) = k(y + shift * d): (B, I, H, W) -> (B, O, H', W').

    The paper's text: embed, shift the map in some directions, multiply each copy with the unshifted map, take a weighted
    sum, by one 1x1 convolution over all copies. Each P_d is a dense matrix (within the host's groups), which `pssa`
    reaches at rank D; per output pixel it costs 2 I E + D E + D E O multiply-accumulates, and D maps of memory.
    The embeddings are 1x1 convolutions with the groups of the host; embed first, pad after; K has no bias. Under a
    stride Q and the shifted copies are strided and K sees full resolution.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host. The reach of the branch is its own `shift`,
            whatever the host's kernel and dilation.
        embed_ratio: E / out_chs, above 0; E is rounded to whole channels in each group, at least one.
        shift: L in pixels of the input, at least 1.
        directions: 4 (up, left, right, down), 8 (with the diagonals) or 9 (with the centre).
        border: what k is outside of the image: "zero", or "replicate" its nearest pixel.
        q_bias: give q a bias.
        mix_kernel: m, odd: P is an m x m convolution of what the branch gives at the output pixels around, with zeros
            outside of the map.
        norm: after the branch in a block: "batch", or "none" for a scale and a shift of each channel.
    """

    name = "pssa_dense"

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        embed_ratio: float = 1.0,
        shift: int = 1,
        directions: int = 8,
        border: str = "zero",
        q_bias: bool = False,
        mix_kernel: int = 1,
        norm: str = "batch",
        **host: Unpack[Host],
    ) -> None:
        super().__init__(
            in_chs,
            out_chs,
            embed_ratio=embed_ratio,
            shift=shift,
            directions=directions,
            border=border,
            q_bias=q_bias,
            mix_kernel=mix_kernel,
            norm=norm,
            **host,
        )
        factory = factory_of(host)
        self.query = self._embed(self.embed_chs, stride=self.geometry.stride, bias=q_bias, **factory)
        self.key = self._embed(self.embed_chs, **factory)
        self.project = self._projection(self.embed_chs * directions, **factory)
        self.reset_parameters()

    def embeddings(self) -> tuple[nn.Conv2d, ...]:
        """Q and K."""
        return self.query, self.key

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W'), for any H, W from 1 up."""
        q_BEHW = self.query(x_BCHW)
        copies_BEDHW = torch.stack(shifted(self.key(x_BCHW), **self._window()), dim=2)
        return self.project((q_BEHW[:, :, None] * copies_BEDHW).flatten(1, 2))

    def _take_static_part(self, static: Geometry) -> Kernel | None:
        """The query bias's part: sum_d P_d diag(b_q) K at tap d, a convolution where all borders are that of x."""
        if self.border != "zero" or self.mix_kernel > 1:
            return None
        window = tap_window(torch.eye(self.directions).to(self.project.weight).repeat(self.embed_chs, 1))
        return self._take_query_bias(window, self.shift, static)

    def _products(self, x_BCHW: Tensor) -> Tensor:
        """diag(Q x_0 + b_q) K, for the copy of each direction in that direction (ours)."""
        groups, embed = self.geometry.groups, self.embed_chs // self.geometry.groups
        products_BDgcfiHW = torch.einsum(
            "df,bgchw,gci->bdgcfihw",
            torch.eye(self.directions).to(x_BCHW),
            self.query(x_BCHW).unflatten(1, (groups, embed)),
            self.key.weight.view(groups, embed, -1),
        )
        return products_BDgcfiHW.flatten(2, 4)

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """One product for each embedding channel and direction."""
        return self.embed_chs * self.directions * out_size[0] * out_size[1]
