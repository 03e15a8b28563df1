"""ACmix: convolution and local self-attention over one set of 1x1 projections.

B = batch, C = channels (I = in, O = out), H, W = height, width, h = heads, c = channels of one head, k = kernel size of
the convolution, K = window size of the attention, t = taps of that window.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from xvol.allowed import ODD, WHOLE, among
from xvol.branches.base import Folded, Geometry, Host, factory_of
from xvol.branches.rivals import RivalBranch
from xvol.fold import Kernel, Norm, dilate, norm_at_rest, pad_to_centre

BORDERS = ("mask", "reflect")


class ACmix(RivalBranch):
    """alpha softmax_t(<q, k_t>_h / sqrt(c)) v_t + beta sum_t D_t A (q, k, v)_t: (B, I, H, W) -> (B, O, H', W').

    On the Integration of Self-Attention and Convolution, arXiv 2111.14556. Stage one is shared: q, k, v by 1x1 maps.
    Stage two attends within a K x K window, and makes k^2 maps of the 3 h maps of each head channel (A, light), which
    D shifts and sums: D starts as the k^2 shifts. alpha and beta start at 1/2. The convolution path is linear, so it
    folds into one k x k convolution (ours).

    The default is the form of the paper's equations, which name neither an encoding of positions nor a border; ours is
    then to leave taps outside of the image out of the softmax. What the authors' code adds is `position=True` with
    `border="reflect"`: a logit gains <q, W_p (p_0 - p_t)>, p the place of a pixel in the image from (-1, -1) to (1, 1).

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host, no groups. Both windows have its dilation.
        heads: h, at least 1; must divide out_chs.
        window: K, odd.
        kernel: k, odd; None takes the host's.
        position: encode positions, as said above.
        border: "mask" leaves taps outside of the image out of the softmax; "reflect" sees the image mirrored there at
            its edge pixels, as often as the window asks for (a line of one pixel is all edge).
    """

    has_dynamic_kernel = True
    name = "acmix"
    later_options = frozenset({"position", "border"})
    rules: ClassVar = {"heads": WHOLE, "window": ODD, "kernel": ODD.or_none("the host's"), "border": among(BORDERS)}

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        heads: int = 4,
        window: int = 7,
        kernel: int | None = 3,
        position: bool = False,
        border: str = "mask",
        **host: Unpack[Host],
    ) -> None:
        super().__init__(
            in_chs, out_chs, heads=heads, window=window, kernel=kernel, position=position, border=border, **host
        )
        factory = factory_of(host)
        self.heads, self.window, self.border = heads, window, border
        self.kernel = kernel or self.geometry.kernel_size
        self.query, self.key, self.value = (nn.Conv2d(in_chs, out_chs, 1, bias=False, **factory) for _ in range(3))
        taps, head_chs = self.kernel**2, out_chs // heads
        self.mix: nn.Conv2d | None = nn.Conv2d(3 * heads, taps, 1, bias=False, **factory)
        light_chs = taps * head_chs
        self.sum: nn.Conv2d | None = self._centred(light_chs, out_chs, self.kernel, groups=head_chs, **factory)
        self.offsets = nn.Conv2d(2, head_chs, 1, bias=False, **factory) if position else None
        self.alpha = nn.Parameter(torch.empty(1, **factory))
        self.beta: nn.Parameter | None = nn.Parameter(torch.empty(1, **factory))
        self.local: nn.Conv2d | None = None  # the convolution path in a deploy twin
        self.reset_parameters()

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse grouped hosts and heads that do not divide the channels."""
        super().check(geometry, **options)
        cls._check_heads(options.get("heads", 4), geometry)

    def reset_parameters(self) -> None:
        """Draw the 1x1 maps normal, each preserving the variance of its input; D starts as shifts, both rates at 1/2."""
        for conv in (self.query, self.key, self.value, self.mix, self.offsets):
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

    def _unfold(self, map_BCHW: Tensor) -> Tensor:
        """What each output pixel's window sees: (B, C, H, W) -> (B, C, K * K, H' * W'). Masked taps see zero."""
        geo, padding = self.geometry, self._padding
        if self.border == "reflect":
            rows, columns = (_mirrored(size, padding, map_BCHW.device) for size in map_BCHW.shape[2:])
            map_BCHW, padding = map_BCHW.index_select(2, rows).index_select(3, columns), 0
        seen = functional.unfold(map_BCHW, self.window, geo.dilation, padding, geo.stride)
        return seen.unflatten(1, (map_BCHW.shape[1], self.window**2))

    @property
    def _padding(self) -> int:
        return self.geometry.dilation * (self.window - 1) // 2

    def _windows(self, map_BCHW: Tensor) -> Tensor:
        """By head: (B, O, H, W) -> (B, h, c, K * K, H' * W')."""
        return self._unfold(map_BCHW).unflatten(1, (self.heads, -1))

    def _attention(self, q_BCHW: Tensor, k_BCHW: Tensor) -> Tensor:
        """softmax over the taps of the window: (B, h, K * K, H', W')."""
        geo = self.geometry
        q_BCHW = q_BCHW[:, :, :: geo.stride, :: geo.stride]
        q_BhcP = self._by_head(q_BCHW) * (geo.out_chs // self.heads) ** -0.5
        keys_BhctP = self._windows(k_BCHW)
        if self.offsets is not None:
            keys_BhctP = keys_BhctP + self._encoded(k_BCHW)
        logits_BhtP = (q_BhcP[:, :, :, None] * keys_BhctP).sum(2)
        if self.border == "mask":
            inside_1tP = self._unfold(k_BCHW.new_ones(1, 1, *k_BCHW.shape[2:]))[:, 0]
            logits_BhtP = logits_BhtP.masked_fill(inside_1tP[:, None] == 0, -torch.inf)
        return logits_BhtP.softmax(2).to(logits_BhtP.dtype).unflatten(-1, q_BCHW.shape[2:])

    def _encoded(self, like_BCHW: Tensor) -> Tensor:
        """W_p (p_0 - p_t) for each tap: (1, 1, c, K * K, H' * W')."""
        assert self.offsets is not None
        down, across = (torch.linspace(-1, 1, size).to(like_BCHW) for size in like_BCHW.shape[2:])
        places_12HW = torch.stack(torch.meshgrid(across, down, indexing="xy"))[None]
        taps_12tP = self._unfold(places_12HW)
        own_121P = taps_12tP[:, :, self.window**2 // 2, None]
        return self.offsets(own_121P - taps_12tP)[:, None]

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

    def fold(self, norm: Norm, static: Geometry | None) -> Folded:
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
        geo = self.geometry
        conv = self._centred(geo.in_chs, geo.out_chs, kernel[0].shape[-1], device="meta")
        conv.weight, conv.bias = nn.Parameter(kernel[0]), nn.Parameter(kernel[1])
        return conv

    def dynamic_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """alpha blockdiag_h(softmax_t) V at tap t, plus the convolution path (ours); the dilation written out as zeros."""
        weights_BhtHW = self._attention(self.query(x_BCHW), self.key(x_BCHW))
        each_BOttHW = self._dense_taps(weights_BhtHW, x_BCHW).repeat_interleave(self.geometry.out_chs // self.heads, 1)
        scaled_OI = self.value.weight.flatten(1) * self.alpha[:, None]
        attention = torch.einsum("bomnhw,oi->bhwoimn", each_BOttHW, scaled_OI)
        convolution, bias_O = self._convolution()
        convolution, _ = dilate(convolution, bias_O, self.geometry.dilation)
        size = max(attention.shape[-1], convolution.shape[-1])
        grown, _ = pad_to_centre(attention.flatten(0, 3), bias_O, size)
        return grown.unflatten(0, attention.shape[:4]) + pad_to_centre(convolution, bias_O, size)[0], bias_O

    def _dense_taps(self, weights_BhtHW: Tensor, x_BCHW: Tensor) -> Tensor:
        """Lay the weights of the taps where they lead, in a window of dilation 1: (B, h, k, k, H', W')."""
        geo, reach = self.geometry, self._padding
        ways = []
        for size, out_size in zip(x_BCHW.shape[2:], weights_BhtHW.shape[3:], strict=True):
            centre = torch.arange(out_size, device=x_BCHW.device) * geo.stride
            # of the grown map
            target = centre + geo.dilation * torch.arange(self.window, device=x_BCHW.device)[:, None]
            if self.border == "reflect":
                target = _mirrored(size, reach, x_BCHW.device)[target] + reach
            ways.append(functional.one_hot(target - centre, 2 * reach + 1).to(weights_BhtHW.dtype))
        window = (self.window, self.window)
        return torch.einsum("bhmnyx,myp,nxq->bhpqyx", weights_BhtHW.unflatten(2, window), *ways)

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """Two products for each channel and tap of the window: <q, k_t> and the weighted sum of v_t."""
        return 2 * self.geometry.out_chs * self.window**2 * out_size[0] * out_size[1]


def _mirrored(size: int, reach: int, device: torch.device) -> Tensor:
    """Where each place of a line grown by `reach` on both sides lies in it, mirrored at the edge pixels: (size + 2 reach,)."""
    period = max(1, 2 * (size - 1))
    place = torch.arange(-reach, size + reach, device=device) % period
    return torch.minimum(place, period - place)
