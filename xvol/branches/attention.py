"""What the attention branches share: 1x1 embeddings in the host's groups, the shifted 3x3 window, a last linear map.

The window has directions, a border, and taps that lead somewhere. The last map takes the norm in.

B = batch, C = channels (I = in, E = embedding, Z = of the last map's input, O = out), D = directions, H, W = height,
width, g = groups, k = kernel size, m = size of the last map.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from xvol.allowed import ODD, RATIO, WHOLE, Rule, among
from xvol.branches.base import NORM, Branch, Folded, Geometry, factory_of
from xvol.fold import Kernel, Norm, bias_only, fold_norm, mixed_kernel, product_static_part, sum_parallel

# Directions as positions in a 3x3 window read row by row; position 4 is the centre.
POSITIONS = {4: (1, 3, 5, 7), 8: (0, 1, 2, 3, 5, 6, 7, 8), 9: tuple(range(9))}
WINDOW = {"shift": WHOLE, "directions": among(POSITIONS), "border": among(("zero", "replicate"))}


def pad_edges(map_BCHW: Tensor, reach: int) -> Tensor:
    """Surround a map with copies of its edge, `reach` pixels wide: (B, C, H, W) -> (B, C, H + 2 reach, W + 2 reach).

    `functional.pad` with mode "replicate"; under torch.compile, which cannot lay out the gradient of that for
    channels_last maps, the same bits by `joined_edges`. In eager mode that would take up to 16 % longer (docs/LOG.md).
    """
    if torch.compiler.is_compiling():
        return joined_edges(map_BCHW, reach)
    return functional.pad(map_BCHW, [reach] * 4, mode="replicate")


def joined_edges(map_BCHW: Tensor, reach: int) -> Tensor:
    """The same, by joining the map to its edge rows and columns."""
    left, right = map_BCHW[..., :1], map_BCHW[..., -1:]
    across = (-1, -1, -1, reach)
    wide_BCHW = torch.cat([left.expand(across), map_BCHW, right.expand(across)], dim=3)
    above, below = wide_BCHW[:, :, :1], wide_BCHW[:, :, -1:]
    down = (-1, -1, reach, -1)
    return torch.cat([above.expand(down), wide_BCHW, below.expand(down)], dim=2)


def shifted(k_BCHW: Tensor, *, directions: int, shift: int, stride: int, border: str) -> list[Tensor]:
    """S_d k for each direction: D views (B, C, H', W') of one padded copy, S_d k(y) = k(stride * y + shift * d)."""
    height, width = k_BCHW.shape[2:]
    if border == "replicate":
        padded_BCHW = pad_edges(k_BCHW, shift)
    else:
        padded_BCHW = functional.pad(k_BCHW, [shift] * 4)
    corners = [(position // 3 * shift, position % 3 * shift) for position in POSITIONS[directions]]
    return [padded_BCHW[:, :, top : top + height : stride, left : left + width : stride] for top, left in corners]


def tap_window(taps_ND: Tensor) -> Tensor:
    """Taps as depthwise kernels: (N, D) to (N, 1, 3, 3), zero where there is no direction."""
    taps_N = taps_ND.unbind(dim=1)  # how many is a plain number under torch.jit.trace too, where no shape is one
    places, zero_N = POSITIONS[len(taps_N)], torch.zeros_like(taps_N[0])
    columns = [taps_N[places.index(position)] if position in places else zero_N for position in range(9)]
    return torch.stack(columns, dim=1).view(-1, 1, 3, 3)


def place(
    coefficient_BDOIHW: Tensor, in_size: tuple[int, int], *, directions: int, shift: int, stride: int, border: str
) -> Tensor:
    """Lay one matrix for each direction and output pixel into the dense window that reaches as far as the shift.

    A replicated border is written as taps moved into the image. Of the arguments `coefficient_BDOIHW` is (B, D, O, I / g, H', W')
    and `in_size` (H, W) of the input.

    Returns:
        kernel_BHWOIkk: (B, H', W', O, I / g, k, k) with k = 2 * shift + 1.
    """
    rows, columns = (
        _targets(size, out_size, coefficient_BDOIHW, shift, stride, border)
        for size, out_size in zip(in_size, coefficient_BDOIHW.shape[-2:], strict=True)
    )
    kernel = coefficient_BDOIHW.new_zeros(())
    for d, position in enumerate(POSITIONS[directions]):
        ways = (rows[position // 3], columns[position % 3])
        kernel = kernel + torch.einsum("boihw,hm,wn->bhwoimn", coefficient_BDOIHW[:, d], *ways)
    return kernel


def _targets(size: int, out_size: int, like: Tensor, shift: int, stride: int, border: str) -> Tensor:
    """Where the shifts by -L, 0, L lead along one axis: (3, out_size, 2 L + 1), one-hot over the dense window."""
    centre = torch.arange(out_size, device=like.device) * stride
    target = centre + shift * torch.tensor([-1, 0, 1], device=like.device)[:, None]
    if border == "replicate":
        target = target.clamp(0, size - 1)
    return functional.one_hot(target - centre + shift, 2 * shift + 1).to(like.dtype)


def embedding_chs(embed_ratio: float, geometry: Geometry) -> int:
    """E: a ratio of the out channels, rounded to whole channels in each group, at least one."""
    return max(1, round(embed_ratio * geometry.out_chs / geometry.groups)) * geometry.groups


def heads_in_group(branch: str, heads: int | None, embed_ratio: float, geometry: Geometry) -> int:
    """The number of heads in each group, which must divide its embedding channels; None stands for one for each channel."""
    chs = embedding_chs(embed_ratio, geometry) // geometry.groups
    if heads is None:
        return chs
    if chs % heads:
        raise ValueError(
            f"{branch}: heads={heads} does not divide the {chs} embedding channels (of each group): "
            "choose a divisor, or another embed_ratio"
        )
    return heads


class AttentionBranch(Branch):
    """A branch P z(x) with 1x1 embeddings of x and an m x m map P: (B, Z, H', W') -> (B, O, H', W').

    Subclasses set `name` (their registered one), `query`, `key` and `project`, and name their own options alone: those of
    the classes above them are theirs too. Embeddings are 1x1 convolutions with the groups of the host; only the query may
    have a bias. Every map keeps the variance of its input as it starts; a query bias starts at zero.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host. The reach of the branch is its own, whatever
            the host's kernel and dilation.
        embed_ratio: E / out_chs, above 0; E is rounded to whole channels in each group, at least one.
        mix_kernel: m, odd: P is an m x m convolution of what the branch gives at the output pixels around, with zeros
            outside of the map.
        norm: after the branch in a block: "batch", or "none" for a scale and a shift of each channel.
    """

    name: ClassVar[str]
    later_options = frozenset({"mix_kernel", "norm"})
    rules: ClassVar[dict[str, Rule]] = {"embed_ratio": RATIO, "mix_kernel": ODD, "norm": NORM}
    query: nn.Conv2d
    key: nn.Conv2d
    project: nn.Conv2d

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        embed_ratio: float = 1.0,
        mix_kernel: int = 1,
        norm: str = "batch",
        **rest: Any,
    ) -> None:
        super().__init__(in_chs, out_chs, embed_ratio=embed_ratio, mix_kernel=mix_kernel, norm=norm, **rest)
        self.embed_chs = embedding_chs(embed_ratio, self.geometry)
        self.mix_kernel = mix_kernel

    @classmethod
    def option_defaults(cls) -> dict[str, Any]:
        """Options and their defaults, of this class and of the attention classes that it is built on."""
        found: dict[str, Any] = {}
        for each in cls.__mro__:
            if issubclass(each, AttentionBranch):
                found |= {
                    name: default
                    for name, default in super(AttentionBranch, each).option_defaults().items()
                    if name not in found
                }
        return found

    def _embed(self, embed_chs: int, *, stride: int = 1, bias: bool = False, **factory: Any) -> nn.Conv2d:
        geo = self.geometry
        return nn.Conv2d(geo.in_chs, embed_chs, 1, stride=stride, groups=geo.groups, bias=bias, **factory)

    def _projection(self, chs: int, *, padding: int | None = None, **factory: Any) -> nn.Conv2d:
        geo, size = self.geometry, self.mix_kernel
        around = size // 2 if padding is None else padding
        return nn.Conv2d(chs, geo.out_chs, size, padding=around, groups=geo.groups, bias=False, **factory)

    def reset_parameters(self) -> None:
        """Draw all weights normal, each map preserving the variance of its input; the query bias starts at zero."""
        for conv in (part for part in self.children() if isinstance(part, nn.Conv2d)):
            nn.init.normal_(conv.weight, std=conv.weight[0].numel() ** -0.5)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def fold(self, norm: Norm, static: Geometry | None) -> Folded:
        """The norm's scale goes into P, its shift into the static convolution; where there is none, into a bias of P.

        What else is static (`_take_static_part`) leaves the dynamic part if it fits the taps of the static convolution.
        """
        twin = copy.deepcopy(self)
        bias_O = None if self.project.bias is None else self.project.bias.detach()
        weight, shift_O = fold_norm(self.project.weight.detach(), bias_O, norm)
        twin.project.weight = nn.Parameter(weight)
        twin.project.bias = nn.Parameter(shift_O) if static is None else None
        if static is None:
            return Folded(static=None, dynamic=twin)
        fixed = bias_only(shift_O, self.geometry.in_chs // self.geometry.groups)
        part = twin._take_static_part(static)
        return Folded(static=fixed if part is None else sum_parallel(fixed, part), dynamic=twin)

    def _take_static_part(self: Self, static: Geometry) -> Kernel | None:
        """Take out of this twin what is a convolution that fits `static`, and return it; None where nothing is."""
        return None

    def _take_query_bias(self: Self, window: Tensor, shift: int, static: Geometry) -> Kernel | None:
        """Take the query bias out of a product form with these taps, (Z, 1, 3, 3), if its part lies on those of `static`."""
        geo = self.geometry
        steps = (shift,) if self.mix_kernel == 1 else (shift, geo.stride)
        reach = shift + geo.stride * (self.mix_kernel // 2)
        if self.query.bias is None or any(step % static.dilation for step in steps) or reach > static.same_padding:
            return None
        weights = (self.project.weight.detach(), window.detach(), self.query.bias.detach(), self.key.weight.detach())
        self.query.bias = None
        stride, shift = geo.stride // static.dilation, shift // static.dilation
        return product_static_part(*weights, geo.groups, stride=stride, shift=shift)

    def _projection_bias(self) -> Tensor:
        bias_O = self.project.bias
        return self.project.weight.new_zeros(self.geometry.out_chs) if bias_O is None else bias_O


class ShiftedBranch(AttentionBranch):
    """An attention branch that sees the shifted 3x3 window about each pixel, with a border of its own.

    Embed first, pad after. Under a stride the query and the window are strided, and the rest sees full resolution.
    Subclasses give `_products`; the dynamic kernel follows.

    Args:
        shift: L in pixels of the input, at least 1.
        directions: 4 (up, left, right, down), 8 (with the diagonals) or 9 (with the centre).
        border: what the embeddings but the query are outside of the image: "zero", or "replicate" their nearest pixel.
        q_bias: give the query a bias.
    """

    has_dynamic_kernel = True
    rules = AttentionBranch.rules | WINDOW

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        shift: int = 1,
        directions: int = 8,
        border: str = "zero",
        q_bias: bool = False,
        **rest: Any,
    ) -> None:
        super().__init__(in_chs, out_chs, shift=shift, directions=directions, border=border, q_bias=q_bias, **rest)
        self.shift, self.directions, self.border = shift, directions, border
        self.query = self._embed(self.embed_chs, stride=self.geometry.stride, bias=q_bias, **factory_of(rest))
        self.key = self._embed(self.embed_chs, **factory_of(rest))

    def _window(self) -> dict[str, Any]:
        stride = self.geometry.stride
        return {"directions": self.directions, "shift": self.shift, "stride": stride, "border": self.border}

    def window(self) -> Tensor | None:
        """The taps of a product form as depthwise kernels, (Z, 1, 3, 3); None of another form."""
        return None

    def _take_static_part(self, static: Geometry) -> Kernel | None:
        """The query bias's part: sum_d P_d diag(b_q) K at tap d, a convolution where the borders of k and the products are that of x."""
        window = self.window()
        if window is None or self.border != "zero" or self.mix_kernel > 1:
            return None
        return self._take_query_bias(window, self.shift, static)

    @abstractmethod
    def _products(self, x_BCHW: Tensor) -> Tensor:
        """What each input channel of P makes of the pixel of x in each direction: (B, D, Z, I / g, H', W')."""

    def dynamic_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """P times `_products`, laid into the window (ours). A replicated border is written as taps moved into the image."""
        kernel = place(self._products(x_BCHW), (x_BCHW.shape[2], x_BCHW.shape[3]), **self._window())
        geo = self.geometry
        return mixed_kernel(kernel, self.project.weight, geo.groups, geo.stride), self._projection_bias()
