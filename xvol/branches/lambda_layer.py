"""Lambda layer (rival): a thin adapter over timm's.

B = batch, C = channels (I = in, O = out), H, W = height, width, K = channels of a query head, V = of a value
head.
"""

from __future__ import annotations

from typing import Any, Unpack

from timm.layers.lambda_layer import LambdaLayer
from torch import Tensor, nn

from xvol.branches.base import Host, factory_of
from xvol.branches.options import check_odd, check_ratio, check_whole
from xvol.branches.timm_layer import TimmBranch, pool_as_timm

__all__ = ["Lambda"]


class _LambdaConv(nn.Conv2d):
    """timm's 3-D convolution of window (r, r, 1), (B, 1, H, W, V) -> (B, K, H, W, V), with a 4-D weight."""

    def forward(self, v_B1HWV: Tensor) -> Tensor:
        """Convolve each value channel by itself."""
        batch, value_chs = v_B1HWV.shape[0], v_B1HWV.shape[-1]
        y_NKHW = super().forward(v_B1HWV.permute(0, 4, 1, 2, 3).flatten(0, 1))
        return y_NKHW.unflatten(0, (batch, value_chs)).permute(0, 2, 3, 4, 1)


class Lambda(TimmBranch):
    """(softmax(k) v^T + E * v)^T q head by head, E a local window: timm's `LambdaLayer`.

    LambdaNetworks: Modeling Long-Range Interactions Without Attention, arXiv 2102.08602. The adapter holds timm's 3-D
    convolution as a 2-D one (a 5-D weight breaks `channels_last`), and its pool under stride 2 takes what is left of odd
    sizes; else it is timm's layer. The host's kernel and dilation make no difference.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; as many channels out as in (timm's layer
            gives no others), stride 1 or 2, no groups.
        heads: at least 1; must divide out_chs.
        window: size of the local window of positions, odd.
        qk_ratio: channels of queries over out_chs, above 0; K is that over the heads.
    """

    name = "lambda_layer"
    keeps_chs = True

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        heads: int = 4,
        window: int = 9,
        qk_ratio: float = 1.0,
        **host: Unpack[Host],
    ) -> None:
        super().__init__(
            in_chs,
            out_chs,
            heads=heads,
            window=window,
            qk_ratio=qk_ratio,
            **host,
        )
        factory = factory_of(host)
        shape: dict[str, Any] = {"num_heads": heads, "dim_head": None, "r": window, "qk_ratio": qk_ratio}
        layer: Any = LambdaLayer(in_chs, out_chs, stride=self.geometry.stride, **shape, **factory)
        layer.conv_lambda = _LambdaConv(1, layer.dim_qk, window, padding=window // 2, **factory)
        layer.pool = pool_as_timm(self.geometry.stride)
        self.layer = layer
        self.reset_parameters()

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Refuse what the class docstring does not allow."""
        check_whole("lambda_layer", options, "heads")
        check_odd("lambda_layer", options, "window")
        check_ratio("lambda_layer", options, "qk_ratio")
