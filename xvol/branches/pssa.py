"""Pixel Shift Self-Attention in product form: of rank R, without shifted copies; and dense, by them, as the paper's text has it.

B = batch, C = channels (I = in, E = embedding, O = out), R = rank, D = directions, H, W = height, width, g = groups.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from xvol.allowed import WHOLE
from xvol.branches.attention import WINDOW, AttentionBranch, ShiftedBranch, pad_edges, shifted, tap_window
from xvol.branches.base import Geometry, factory_of
from xvol.fold import Kernel, compose_taps


@dataclass(frozen=True)
class Execution:
    """How a PSSA branch computes, not what: no part of its options, so of no architecture's hash.

    `recompute` saves only the input for the backward pass, and computes q, k and the neighbours again there.
    """

    recompute: bool = False


def set_execution(model: nn.Module, execution: Execution) -> int:
    """Set how all PSSA branches of a model compute; returns how many there are. ValueError where the model has none.

    Example:
        >>> import xvol
        >>> set_execution(xvol.XVolution2d(8, 8), Execution(recompute=True))
        1
    """
    branches = [module for module in model.modules() if isinstance(module, PSSA)]
    if not branches:
        raise ValueError(f"{type(model).__name__} has no pssa branch whose execution could be set")
    for branch in branches:
        branch.execution = execution
    return len(branches)


def triton_runs_on(tensor: Tensor) -> bool:
    """Tell whether the kernel can run on the tensor: Triton installed, and a GPU or the interpreter (on any device)."""
    if find_spec("triton") is None or tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        return False
    return tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"


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
        rank: R, at least 1.
        triton: multiply and sum the neighbours in one Triton kernel, which no GPU has measured yet. Where it cannot run
            (no GPU, no Triton) and with `Execution(recompute=True)`, the branch computes without it, the same up to
            rounding.
        rest: as in `ShiftedBranch`. Beside a convolution that has room for it, a query bias folds away where `mix_kernel`
            is 1 and the border zero.

    Attributes:
        execution: how to compute, e.g. with less memory (`set_execution`). Results agree up to rounding,
            so it is no option, and no architecture's hash knows it.
    """

    name = "pssa"
    later_options = ShiftedBranch.later_options | {"triton"}
    rules = ShiftedBranch.rules | {"rank": WHOLE}

    def __init__(self, in_chs: int, out_chs: int, *, rank: int = 1, triton: bool = False, **rest: Any) -> None:
        super().__init__(in_chs, out_chs, rank=rank, triton=triton, **rest)
        self.rank, self.triton = rank, triton
        self.taps = nn.Parameter(torch.empty(self.embed_chs * rank, self.directions, **factory_of(rest)))
        self.project = self._projection(self.embed_chs * rank, **factory_of(rest))
        self.execution = Execution()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The taps too keep the variance."""
        super().reset_parameters()
        nn.init.normal_(self.taps, std=self.directions**-0.5)

    def window(self) -> Tensor:
        """The taps as a depthwise kernel, (E * R, 1, 3, 3): channel by channel, ranks inside."""
        return tap_window(self.taps)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W'), for any H, W from 1 up."""
        if self.execution.recompute and torch.is_grad_enabled() and not torch.compiler.is_exporting():
            result: Tensor = checkpoint(self._plain, x_BCHW, use_reentrant=False, preserve_rng_state=False)
            return result
        return self._plain(x_BCHW)

    def _plain(self, x_BCHW: Tensor) -> Tensor:
        q_BCHW, k_BCHW = self._embed_both(x_BCHW)
        padding = self.shift
        if self.border == "replicate":
            k_BCHW, padding = pad_edges(k_BCHW, padding), 0
        if self.triton and triton_runs_on(q_BCHW):
            from xvol.triton_kernels import shifted_product  # Triton need not be installed

            fused_BCHW = shifted_product(q_BCHW, k_BCHW, self.window(), self.geometry.stride, self.shift, padding)
            return self.project(fused_BCHW)
        how = (self.geometry.stride, padding, self.shift, self.embed_chs)
        neighbours_BCHW = functional.conv2d(k_BCHW, self.window(), None, *how)
        if self.rank > 1:
            q_BCHW = q_BCHW.repeat_interleave(self.rank, dim=1)
        if not torch.is_grad_enabled():  # nothing is saved for a backward pass
            return self.project(neighbours_BCHW.mul_(q_BCHW))
        return self.project(q_BCHW * neighbours_BCHW)

    def _embed_both(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Q x + b_q and K x; where it pays, by one convolution, which reads x once and sums its gradient at once.

        That is in eager mode on a CPU, where nobody watches or replaced the two convolutions.
        """
        pays = (
            self.embed_chs < self.geometry.in_chs
            and self.geometry.stride == self.geometry.groups == 1
            and isinstance(x_BCHW, Tensor)  # and no torch.fx.Proxy
            and x_BCHW.device.type == "cpu"
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
            and all(
                type(conv) is nn.Conv2d and not conv._forward_hooks and not conv._forward_pre_hooks
                for conv in (self.query, self.key)
            )
        )
        if not pays:
            return self.query(x_BCHW), self.key(x_BCHW)
        bias_E = None if self.query.bias is None else functional.pad(self.query.bias, (0, self.embed_chs))
        both_BCHW = functional.conv2d(x_BCHW, torch.cat([self.query.weight, self.key.weight]), bias_E)
        q_BCHW, k_BCHW = both_BCHW.chunk(2, dim=1)
        return q_BCHW, k_BCHW

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

    Args:
        rest: as in `ShiftedBranch`.
    """

    name = "pssa_dense"

    def __init__(self, in_chs: int, out_chs: int, **rest: Any) -> None:
        super().__init__(in_chs, out_chs, **rest)
        self.project = self._projection(self.embed_chs * self.directions, **factory_of(rest))
        self.reset_parameters()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W'), for any H, W from 1 up."""
        q_BEHW = self.query(x_BCHW)
        copies_BEDHW = torch.stack(shifted(self.key(x_BCHW), **self._window()), dim=2)
        return self.project((q_BEHW[:, :, None] * copies_BEDHW).flatten(1, 2))

    def window(self) -> Tensor:
        """One tap for each channel of P, in its direction: (E * D, 1, 3, 3)."""
        return tap_window(torch.eye(self.directions).to(self.project.weight).repeat(self.embed_chs, 1))

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


class GAPQuery(AttentionBranch):
    """sum_r P^r (q * DW_{a^r}(k)) with q = Q mean(x) + b_q, k = K x: (B, I, H, W) -> (B, O, H', W') (ours).

    `pssa` with the query of the whole image, its global average pool, in place of each pixel's own. So each sample has
    exactly one convolution, of kernel P_d diag(q) K at tap d (`sample_kernel`), and with a conv branch beside it the
    block is one standard convolution for each sample. The border is zero, because with another it would be none. The
    embeddings are 1x1 convolutions with the groups of the host; K has no bias. Under a stride the depthwise stage is
    strided and K sees full resolution.

    Args:
        rank: R, at least 1.
        shift, directions, q_bias: as in `ShiftedBranch`.
        rest: as in `AttentionBranch`; outside of the map a larger P sees the products of an image grown by zeros, so that
            the branch stays one convolution for each sample.
    """

    name = "gap_query"
    rules = AttentionBranch.rules | WINDOW | {"rank": WHOLE}
    has_dynamic_kernel = has_sample_kernel = True

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        rank: int = 1,
        shift: int = 1,
        directions: int = 8,
        q_bias: bool = False,
        **rest: Any,
    ) -> None:
        super().__init__(in_chs, out_chs, rank=rank, shift=shift, directions=directions, q_bias=q_bias, **rest)
        self.rank, self.shift, self.directions = rank, shift, directions
        factory = factory_of(rest)
        self.query = self._embed(self.embed_chs, bias=q_bias, **factory)
        self.key = self._embed(self.embed_chs, **factory)
        self.taps = nn.Parameter(torch.empty(self.embed_chs * rank, directions, **factory))
        self.project = self._projection(self.embed_chs * rank, padding=0, **factory)
        self.reset_parameters()

    @property
    def reach(self) -> int:
        """Of the shift, and of P's window of output pixels."""
        return self.shift + self.geometry.stride * (self.mix_kernel // 2)

    def reset_parameters(self) -> None:
        """The taps too keep the variance."""
        super().reset_parameters()
        nn.init.normal_(self.taps, std=self.directions**-0.5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W'), for any H, W from 1 up."""
        how = (self.geometry.stride, self.reach, self.shift, self.embed_chs)
        neighbours_BCHW = functional.conv2d(self.key(x_BCHW), tap_window(self.taps), None, *how)
        return self.project(self._query(x_BCHW).repeat_interleave(self.rank, dim=1) * neighbours_BCHW)

    def _query(self, x_BCHW: Tensor) -> Tensor:
        """One query for each sample: (B, E, 1, 1)."""
        return self.query(x_BCHW.mean((2, 3), keepdim=True))

    def _take_static_part(self, static: Geometry) -> Kernel | None:
        """The query bias's part: sum_r P^r diag(a^r_d) diag(b_q) K at tap d, whatever the size of P."""
        return self._take_query_bias(tap_window(self.taps), self.shift, static)

    def sample_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """P_d diag(Q mean(x) + b_q) K at tap d, for each sample (ours); the shift is written out as zeros."""
        groups, embed = self.geometry.groups, self.embed_chs // self.geometry.groups
        taps_BgoImmkk = torch.einsum(
            "gocrtu,gcrmn,bgc,gci->bgoitumn",
            self.project.weight.view(groups, -1, embed, self.rank, *self.project.weight.shape[2:]),
            tap_window(self.taps).view(groups, embed, self.rank, 3, 3),
            self._query(x_BCHW).view(-1, groups, embed),
            self.key.weight.view(groups, embed, -1),
        )
        return compose_taps(taps_BgoImmkk.flatten(1, 2), self.geometry.stride, self.shift), self._projection_bias()

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """One product for each embedding and rank, less the taps outside of `directions`: zero by construction.

        With a larger P both are wanted at the output pixels around the map as well.
        """
        height, width = (size + self.mix_kernel - 1 for size in out_size)
        return self.embed_chs * self.rank * (1 - (9 - self.directions)) * height * width
