"""The shifted 3x3 window of the attention branches: its directions, its border, its taps and where they lead.

B = batch, C = channels (I = in, O = out), D = directions, H, W = height, width, k = kernel size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xvol.branches.options import check_among, check_whole

__all__ = ["BORDERS", "POSITIONS", "check_window", "joined_edges", "pad_edges", "place", "shifted", "tap_window"]

# Directions as positions in a 3x3 window read row by row; position 4 is the centre.
POSITIONS = {4: (1, 3, 5, 7), 8: (0, 1, 2, 3, 5, 6, 7, 8), 9: tuple(range(9))}
BORDERS = ("zero", "replicate")


def check_window(branch: str, options: Mapping[str, Any]) -> None:
    """Refuse values of `shift`, `directions` and `border`, each where given, that no window has.

    Raises:
        ValueError: with what was given and what is allowed.
    """
    check_whole(branch, options, "shift")
    check_among(branch, options, "directions", POSITIONS)
    check_among(branch, options, "border", BORDERS)


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

    A replicated border is written as taps moved into the image.

    Args:
        coefficient_BDOIHW: (B, D, O, I / g, H', W').
        in_size: (H, W) of the input.
        directions, shift, stride, border: of the branch.

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
