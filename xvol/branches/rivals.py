"""What the branches of other papers share: which hosts they can stand in for, and how a norm folds behind any of them.

B = batch, C = channels (I = in, O = out), H, W = height, width.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from torch import Tensor, nn

from xvol.branches.base import Branch, Folded, Geometry
from xvol.branches.norm import Norm
from xvol.fold import bias_only, norm_at_rest

__all__ = ["RivalBranch"]


class RivalBranch(Branch):
    """A branch whose last step is not a linear map of its own: the norm folds into a gain and an offset after it.

    Attributes:
        name: what refusals call it: its registered name.
        strides: those it can take; empty for any.
        any_groups: it can stand in for a grouped host.
        keeps_chs: it needs as many channels out as in.
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
