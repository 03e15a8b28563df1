"""ACmix: convolution and local self-attention over one set of 1x1 projections.

B = batch, C = channels (I = in, O = out), H, W = height, width, h = heads, c = channels of one head, k = kernel size of
the convolution, K = window size of the attention, t = taps of that window.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xvol.branches.base import Folded, Geometry
from xvol.branches.options import check_odd, check_whole
from xvol.branches.rivals import RivalBranch
from xvol.fold import Kernel, dilate, norm_at_rest, pad_to_centre
from xvol.registry import register_branch

__all__ = ["ACmix"]


@register_branch("acmix")
class ACmix(RivalBranch):
    """alpha softmax_t(<q, k_t>_h / sqrt(c)) v_t + beta sum_t D_t A (q, k, v)_t: (B, I, H, W) -> (B, O, H', W').

    On the Integration of Self-Attention and Convolution, arXiv 2111.14556. Stage one is shared: q, k, v by 1x1 maps.
    Stage two attends within a K x K window, and makes k^2 maps of the 3 h maps of each head channel (A, light), which
    D shifts and sums: D starts as the k^2 shifts. alpha and beta start at 1/2. Ours: taps outside of the image are left
    out of the softmax (the authors' code reflects the image there, which maps of one pixel do not allow), and no
    encoding of positions. The convolution path is linear, so it folds into one k x k convolution (ours).

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host, no groups. Both windows have its dilation.
        heads: h, at least 1; must divide out_chs.
        window: K, odd.
        kernel: k, odd; None takes the host's.
    """

    name = "acmix"

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        heads: int = 4,
        window: int = 7,
        kernel: int | None = 3,
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
            heads=heads,
            window=window,
            kernel=kernel,
        )
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.heads, self.window, self.kernel = heads, window, kernel or kernel_size
        self.query, self.key, self.value = (nn.Conv2d(in_chs, out_chs, 1, bias=False, **factory) for _ in range(3))
        taps, head_chs = self.kernel**2, out_chs // heads
        self.mix: nn.Conv2d | None = nn.Conv2d(3 * heads, taps, 1, bias=False, **factory)
        self.sum: nn.Conv2d | None = nn.Conv2d(
            taps * head_chs,
            out_chs,
            self.kernel,
            stride=stride,
            padding=dilation * (self.kernel - 1) // 2,
            dilation=dilation,
            groups=head_chs,
            bias=False,
            **factory,
        )
        self.alpha = nn.Parameter(torch.empty(1, **factory))
        self.beta: nn.Parameter | None = nn.Parameter(torch.empty(1, **factory))
        self.local: nn.Conv2d | None = None  # the convolution path in a deploy twin
        self.reset_parameters()

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse grouped hosts and heads that do not divide the channels."""
        super().check(geometry, **options)
        cls._check_heads(options.get("heads", 4), geometry)

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Refuse what the class docstring does not allow."""
        check_whole("acmix", options, "heads")
        check_odd("acmix", options, "window")
        check_odd("acmix", options, "kernel", otherwise="the host's")

    def reset_parameters(self) -> None:
        """Draw the 1x1 maps normal, each preserving the variance of its input; D starts as shifts, both rates at 1/2."""
        for conv in (self.query, self.key, self.value, self.mix):
            if conv is not None:
                nn.init.normal_(conv.weight, std=conv.weight.shape[1] ** -0.5)
        nn.init.constant_(self.alpha, 0.5)
        if self.sum is not None and self.beta is not None:
            shifts = torch.eye(self.kernel**2).view(self.kernel**2, self.kernel, self.kernel)
            with torch.no_grad():
                self.sum.weight.copy_(shifts.to(self.sum.weight).expand_as(self.sum.weight))
            nn.init.constant_(self.beta, 0.5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend and convolve: (B, I, H, W) -> (B, O, H', W'), for any H, W from 1 up."""
        q, k, v = self.query(x_BCHW), self.key(x_BCHW), self.value(x_BCHW)
        weights_BhtHW = self._attention(q, k)
        values_BhctHW = self._windows(v).unflatten(-1, weights_BhtHW.shape[3:])
        attended_BCHW = (weights_BhtHW[:, :, None] * values_BhctHW).sum(3).flatten(1, 2)
        y_BCHW = self.alpha[:, None, None].to(v.dtype) * attended_BCHW
        if self.mix is not None and self.sum is not None and self.beta is not None:
            each_BNcP = torch.cat([self._by_head(part) for part in (q, k, v)], dim=1)
            light_BctHW = self.mix(each_BNcP).transpose(1, 2).unflatten(3, x_BCHW.shape[2:])
            y_BCHW = y_BCHW + self.beta[:, None, None].to(v.dtype) * self.sum(light_BctHW.flatten(1, 2))
        return y_BCHW if self.local is None else y_BCHW + self.local(x_BCHW)

    def _by_head(self, map_BCHW: Tensor) -> Tensor:
        """(B, O, H, W) -> (B, h, c, H * W)."""
        return map_BCHW.flatten(2).unflatten(1, (self.heads, -1))

    def _windows(self, map_BCHW: Tensor) -> Tensor:
        """What each output pixel's window sees: (B, O, H, W) -> (B, h, c, K * K, H' * W')."""
        geo, padding = self.geometry, self.geometry.dilation * (self.window - 1) // 2
        seen = functional.unfold(map_BCHW, self.window, geo.dilation, padding, geo.stride)
        return seen.unflatten(1, (self.heads, -1, self.window**2))

    def _attention(self, q_BCHW: Tensor, k_BCHW: Tensor) -> Tensor:
        """softmax over the taps inside of the image: (B, h, K * K, H', W')."""
        geo = self.geometry
        q_BCHW = q_BCHW[:, :, :: geo.stride, :: geo.stride]
        q_BhcP = self._by_head(q_BCHW) * (geo.out_chs // self.heads) ** -0.5
        logits_BhtP = (q_BhcP[:, :, :, None] * self._windows(k_BCHW)).sum(2)
        image = k_BCHW.new_ones(1, 1, *k_BCHW.shape[2:])
        padding = geo.dilation * (self.window - 1) // 2
        inside_1tP = functional.unfold(image, self.window, geo.dilation, padding, geo.stride)
        weights_BhtP = logits_BhtP.masked_fill(inside_1tP[:, None] == 0, -torch.inf).softmax(2).to(logits_BhtP.dtype)
        return weights_BhtP.unflatten(-1, q_BCHW.shape[2:])

    def _convolution(self) -> Kernel:
        """beta sum_t D_t A (Q, K, V): the convolution path as one k x k convolution (ours)."""
        if self.mix is None or self.sum is None or self.beta is None:
            bias_O = self.value.weight.new_zeros(self.geometry.out_chs)
            if self.local is None:
                return bias_O.new_zeros(*self.value.weight.shape), bias_O
            return self.local.weight, bias_O if self.local.bias is None else self.local.bias
        maps_NcI = torch.cat(
            [conv.weight.flatten(1).unflatten(0, (self.heads, -1)) for conv in (self.query, self.key, self.value)]
        )
        sums_cotkk = self.sum.weight.unflatten(0, (maps_NcI.shape[1], -1))
        kernel = torch.einsum("cotmn,tz,zci->coimn", sums_cotkk, self.mix.weight.flatten(1), maps_NcI)
        return kernel.flatten(0, 1) * self.beta, kernel.new_zeros(self.geometry.out_chs)

    def fold(self, norm: nn.BatchNorm2d, static: Geometry | None) -> Folded:
        """The convolution path is static; the norm's scale goes into it and into alpha. Alone, the path stays beside."""
        twin = copy.deepcopy(self)
        scale_O, shift_O = norm_at_rest(norm)
        kernel, bias_O = self._convolution()
        fixed = kernel.detach() * scale_O[:, None, None, None], bias_O.detach() * scale_O + shift_O
        twin.alpha = nn.Parameter(self.alpha.detach() * scale_O)
        twin.mix = twin.sum = twin.beta = None
        twin.local = None if static is not None else self._local(fixed)
        return Folded(static=None if static is None else fixed, dynamic=twin)

    def _local(self, kernel: Kernel) -> nn.Conv2d:
        geo, size = self.geometry, kernel[0].shape[-1]
        conv = nn.Conv2d(
            geo.in_chs,
            geo.out_chs,
            size,
            stride=geo.stride,
            padding=geo.dilation * (size - 1) // 2,
            dilation=geo.dilation,
            device="meta",
        )
        conv.weight, conv.bias = nn.Parameter(kernel[0]), nn.Parameter(kernel[1])
        return conv

    def dynamic_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """alpha blockdiag_h(softmax_t) V at tap t, plus the convolution path (ours); the dilation written out as zeros."""
        weights_BhtHW = self._attention(self.query(x_BCHW), self.key(x_BCHW))
        each_BOtHW = weights_BhtHW.repeat_interleave(self.geometry.out_chs // self.heads, dim=1)
        scaled_OI = self.value.weight.flatten(1) * self.alpha[:, None]
        attention = torch.einsum("bothw,oi->bhwoit", each_BOtHW, scaled_OI)
        attention_kernel = attention.unflatten(-1, (self.window, self.window))
        convolution, bias_O = self._convolution()
        size = max(self.window, convolution.shape[-1])
        grown, _ = pad_to_centre(attention_kernel.flatten(0, 3), bias_O, size)
        total = grown.unflatten(0, attention.shape[:4]) + pad_to_centre(convolution, bias_O, size)[0]
        spread, _ = dilate(total.flatten(0, 3), bias_O, self.geometry.dilation)
        return spread.unflatten(0, attention.shape[:4]), bias_O

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """Two products for each channel and tap of the window: <q, k_t> and the weighted sum of v_t."""
        return 2 * self.geometry.out_chs * self.window**2 * out_size[0] * out_size[1]
