"""Halo attention (rival): a thin adapter over timm's layer.

B = batch, C = channels (I = in, O = out), H, W = height, width.
"""

from __future__ import annotations

from typing import Any, Unpack

from timm.layers.halo_attn import HaloAttn
from torch import Tensor
from torch.nn import functional

from xvol.branches.base import Geometry, Host, factory_of
from xvol.branches.options import check_ratio, check_whole
from xvol.branches.timm_layer import TimmBranch

__all__ = ["Halo"]


class Halo(TimmBranch):
    """softmax(q^T k / sqrt(c) + relative positions) v within blocks and a halo around each: timm's `HaloAttn`.

    Scaling Local Self-Attention for Parameter Efficient Visual Backbones, arXiv 2103.12731. timm asks for maps of whole
    blocks: others are filled up with zeros below and at the right, as timm's layer itself sees zeros around the image,
    and cropped; on whole blocks the adapter is timm's layer. The host's kernel and dilation make no difference.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; stride 1 or 2, no groups.
        heads: at least 1; must divide out_chs.
        block_size: in pixels, at least 1; even under stride 2.
        halo_size: width of the halo in pixels, at least 1.
        qk_ratio: channels of queries and keys over out_chs, above 0.
    """

    name = "halo"

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        heads: int = 8,
        block_size: int = 8,
        halo_size: int = 3,
        qk_ratio: float = 1.0,
        **host: Unpack[Host],
    ) -> None:
        super().__init__(
            in_chs,
            out_chs,
            heads=heads,
            block_size=block_size,
            halo_size=halo_size,
            qk_ratio=qk_ratio,
            **host,
        )
        self.block_size = block_size
        self.layer = HaloAttn(
            in_chs,
            out_chs,
            stride=self.geometry.stride,
            num_heads=heads,
            block_size=block_size,
            halo_size=halo_size,
            qk_ratio=qk_ratio,
            **factory_of(host),
        )
        self.reset_parameters()

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse strided blocks that are odd, and what timm's layer does not take."""
        super().check(geometry, **options)
        block_size = options.get("block_size", 8)
        if geometry.stride == 2 and block_size % 2:
            raise ValueError(f"halo: block_size={block_size} is refused: under stride 2 it must be even")

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Refuse what the class docstring does not allow."""
        check_whole("halo", options, "heads", "block_size", "halo_size")
        check_ratio("halo", options, "qk_ratio")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend: (B, I, H, W) -> (B, O, H', W'), for any H, W from 1 up."""
        height, width = x_BCHW.shape[2:]
        fill = [0, -width % self.block_size, 0, -height % self.block_size]
        stride = self.geometry.stride
        y_BCHW = self.layer(functional.pad(x_BCHW, fill))
        return self._finish(y_BCHW[:, :, : (height - 1) // stride + 1, : (width - 1) // stride + 1])
