"""Token mixers of timm's newer networks, and large-kernel attention (rivals), behind thin adapters.

B = batch, C = channels (I = in, O = out), H, W = height, width, k = kernel size.
"""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import torch
from timm.layers import GlobalContext as TimmGlobalContext
from timm.layers import SelectiveKernel as TimmSelectiveKernel
from timm.models.fastvit import ReparamLargeKernelConv
from timm.models.focalnet import FocalModulation as TimmFocalModulation
from timm.models.inception_next import InceptionDWConv2d
from timm.models.shvit import SHSA
from timm.models.swiftformer import EfficientAdditiveAttention
from timm.models.volo import OutlookAttention
from torch import Tensor, nn
from torch.nn import functional

from xvol.allowed import ODD, RATIO, WHOLE
from xvol.branches.base import Geometry, Host, factory_of
from xvol.branches.conv import StaticBranch
from xvol.branches.rivals import RivalBranch


class LayerBranch(RivalBranch):
    """A layer (B, C, H, W) -> (B, C, H, W) of as many channels out as in; under a stride it takes the means of stride x stride cells.

    The host's kernel and dilation make no difference.
    """

    keeps_chs = True
    layer: nn.Module

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Mix: (B, C, H, W) -> (B, C, H', W'), for any H, W from 1 up."""
        stride = self.geometry.stride
        seen_BCHW = x_BCHW if stride == 1 else functional.avg_pool2d(x_BCHW, stride, stride, ceil_mode=True)
        y_BCHW = self._mix(seen_BCHW)
        kind = y_BCHW.device.type
        if kind != "meta" and torch.is_autocast_enabled(kind):  # a gate times the input would be of the input's dtype
            y_BCHW = y_BCHW.to(torch.get_autocast_dtype(kind))
        return self._finish(y_BCHW)

    def _mix(self, x_BCHW: Tensor) -> Tensor:
        return self.layer(x_BCHW)


class FocalModulation(LayerBranch):
    """P (q * H(sum_l g_l c_l)): q, contexts c_l of growing depthwise windows and of the whole image, and their gates: timm's layer.

    Focal Modulation Networks, arXiv 2203.11926.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; as many channels out as in, no groups.
        window: of the first context, odd; each further one is larger by 2.
        levels: contexts beside that of the whole image, at least 1.
    """

    name = "focal_modulation"
    rules: ClassVar = {"window": ODD, "levels": WHOLE}

    def __init__(self, in_chs: int, out_chs: int, *, window: int = 3, levels: int = 2, **host: Unpack[Host]) -> None:
        super().__init__(in_chs, out_chs, window=window, levels=levels, **host)
        self.levels = levels
        self.layer = TimmFocalModulation(in_chs, window, levels, **factory_of(host))
        self.reset_parameters()

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """A product for each context, that of the image too, and that with q."""
        return self.geometry.out_chs * (self.levels + 2) * out_size[0] * out_size[1]


class Outlook(LayerBranch):
    """Fold(softmax(A x) Unfold(V x)): each pixel says how its window's values are mixed: timm's `OutlookAttention`.

    VOLO: Vision Outlooker for Visual Recognition, arXiv 2106.13112.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; as many channels out as in, no groups.
        heads: at least 1; must divide out_chs.
        window: odd.
    """

    name = "outlook"
    rules: ClassVar = {"heads": WHOLE, "window": ODD}

    def __init__(self, in_chs: int, out_chs: int, *, heads: int = 1, window: int = 3, **host: Unpack[Host]) -> None:
        super().__init__(in_chs, out_chs, heads=heads, window=window, **host)
        self.layer = OutlookAttention(in_chs, heads, window, window // 2, **factory_of(host))
        self.reset_parameters()

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse heads that do not divide the channels."""
        super().check(geometry, **options)
        cls._check_heads(options.get("heads", 1), geometry)

    def _mix(self, x_BCHW: Tensor) -> Tensor:
        return self.layer(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class InceptionDW(LayerBranch):
    """Depthwise k x k, 1 x b and b x 1 windows, each on a share of the channels; the others stay: timm's `InceptionDWConv2d`.

    InceptionNeXt, arXiv 2303.16900. It is linear, but one convolution of b x b only: only the norm folds.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; as many channels out as in.
        window, band: k and b, odd.
        share: of the channels for each of the three windows, above 0 and at most a third.
    """

    name = "inception_dw"
    any_groups = True
    rules: ClassVar = {"window": ODD, "band": ODD, "share": RATIO}

    def __init__(
        self, in_chs: int, out_chs: int, *, window: int = 3, band: int = 11, share: float = 0.125, **host: Unpack[Host]
    ) -> None:
        super().__init__(in_chs, out_chs, window=window, band=band, share=share, **host)
        self.layer = InceptionDWConv2d(in_chs, window, band, share, **factory_of(host))
        self.reset_parameters()

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse shares of less than a channel, or of more than there are."""
        super().check(geometry, **options)
        share = options.get("share", 0.125)
        if not 1 <= int(geometry.in_chs * share) <= geometry.in_chs // 3:
            raise ValueError(
                f"{cls.name}: share={share} of in_chs={geometry.in_chs} is refused: each of the three windows takes at least a "
                "channel, and all together no more than there are"
            )


class SingleHead(LayerBranch):
    """Softmax attention of one head on a part of the channels, then a map of all: timm's `SHSA`.

    SHViT: Single-Head Vision Transformer, arXiv 2401.16456; with norms inside. Quadratic in pixels.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; as many channels out as in, no groups.
        qk_chs: channels of queries and keys.
        share: of the channels that attend, above 0 and at most 1; at least 2 channels, for a norm is over them.
    """

    name = "single_head"
    rules: ClassVar = {"qk_chs": WHOLE, "share": RATIO}

    def __init__(
        self, in_chs: int, out_chs: int, *, qk_chs: int = 16, share: float = 0.25, **host: Unpack[Host]
    ) -> None:
        super().__init__(in_chs, out_chs, qk_chs=qk_chs, share=share, **host)
        self.layer = SHSA(in_chs, qk_chs, max(2, round(in_chs * share)), **factory_of(host))
        self.reset_parameters()

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse more channels than there are."""
        super().check(geometry, **options)
        if geometry.in_chs < 2:
            raise ValueError(f"{cls.name}: in_chs={geometry.in_chs} is refused: at least 2 attend")
        if options.get("share", 0.25) > 1:
            raise ValueError(f"{cls.name}: share={options['share']} is refused: it is of the channels, so at most 1")


class AdditiveAttention(LayerBranch):
    """Queries, a weighted sum of them as the image's own, and its product with the keys, linear in pixels: timm's layer.

    SwiftFormer: Efficient Additive Attention, arXiv 2303.15446.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; no groups.
    """

    name = "additive_attention"
    keeps_chs = False

    def __init__(self, in_chs: int, out_chs: int, **host: Unpack[Host]) -> None:
        super().__init__(in_chs, out_chs, **host)
        self.layer = EfficientAdditiveAttention(in_chs, out_chs, **factory_of(host))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As each layer does it; the weights of the sum are normal, as in timm."""
        for part in self.layer.children():
            part.reset_parameters()  # type: ignore[operator]
        nn.init.normal_(self.layer.w_g)  # type: ignore[arg-type]

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """Queries times their weights, and keys times the image's query."""
        return 2 * self.geometry.out_chs * out_size[0] * out_size[1]


class GlobalContext(LayerBranch):
    """x times a gate for each channel that an attention-weighted mean of the image gives: timm's `GlobalContext`.

    GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, arXiv 1904.11492, with its context as a scale.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; as many channels out as in.
        reduction: channels over those of the gate's middle, at least 1; they are at least 4, for a norm is over them.
    """

    name = "global_context"
    any_groups = True
    rules: ClassVar = {"reduction": WHOLE}

    def __init__(self, in_chs: int, out_chs: int, *, reduction: int = 8, **host: Unpack[Host]) -> None:
        super().__init__(in_chs, out_chs, reduction=reduction, **host)
        factory = factory_of(host)
        layer: Any = TimmGlobalContext(in_chs, rd_channels=max(4, in_chs // reduction), **factory)
        layer.conv_attn = nn.Conv2d(in_chs, 1, 1, bias=False, **factory)  # a softmax does not see timm's bias
        self.layer = layer
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As each layer does it; timm's own leaves the gate's as they are."""
        for part in self.layer.modules():
            if isinstance(part, nn.Conv2d | nn.LayerNorm):
                part.reset_parameters()

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """The gate."""
        return self.geometry.out_chs * out_size[0] * out_size[1]


class LargeKernelAttention(LayerBranch):
    """x * W DW_{7, dilated by 3}(DW_5(x)), W 1x1: attention as a large window, decomposed into three convolutions (written here).

    Visual Attention Network, arXiv 2202.09741. (25 + 49) C + C^2 weights, and biases as there; a window of 23x23 pixels.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; as many channels out as in, no groups.
    """

    name = "large_kernel"

    def __init__(self, in_chs: int, out_chs: int, **host: Unpack[Host]) -> None:
        super().__init__(in_chs, out_chs, **host)
        factory = factory_of(host)
        self.layer = nn.Sequential(
            nn.Conv2d(in_chs, in_chs, 5, padding=2, groups=in_chs, **factory),
            nn.Conv2d(in_chs, in_chs, 7, padding=9, dilation=3, groups=in_chs, **factory),
            nn.Conv2d(in_chs, in_chs, 1, **factory),
        )
        self.reset_parameters()

    def _mix(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.layer(x_BCHW)

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """The product with x."""
        return self.geometry.out_chs * out_size[0] * out_size[1]


class SelectiveKernel(RivalBranch):
    """A 3x3 and a dilated 3x3 convolution, each of half the channels in, mixed by attention over the two: timm's `SelectiveKernel`.

    Selective Kernel Networks, arXiv 1903.06586, as timm splits the input; with norms and activations inside. The host's kernel makes no
    difference.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; an even number of channels in for each group.
    """

    name = "selective_kernel"
    any_groups = True

    def __init__(self, in_chs: int, out_chs: int, **host: Unpack[Host]) -> None:
        super().__init__(in_chs, out_chs, **host)
        geo = self.geometry
        shape: dict[str, Any] = {"stride": geo.stride, "dilation": geo.dilation, "groups": geo.groups}
        self.layer = TimmSelectiveKernel(in_chs, out_chs, **shape, **factory_of(host))
        self.reset_parameters()

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse channels that cannot be halved."""
        super().check(geometry, **options)
        if geometry.in_chs % (2 * geometry.groups):
            raise ValueError(
                f"{cls.name}: in_chs={geometry.in_chs} in groups={geometry.groups} is refused: each group is split in halves"
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve and select: (B, I, H, W) -> (B, O, H', W')."""
        return self._finish(self.layer(x_BCHW))

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """Each path times its weight."""
        return 2 * self.geometry.out_chs * out_size[0] * out_size[1]


class RepLargeKernel(StaticBranch):
    """BN(W_K x) + BN(W_k x), a large and a small window: (B, I, H, W) -> (B, O, H', W'): timm's `ReparamLargeKernelConv`.

    Scaling Up Your Kernels to 31x31 (RepLKNet), arXiv 2203.06717: in eval mode exactly one K x K convolution of the host's stride and
    groups.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: of the host; dilation 1, stride 1 or 2 (at others timm's windows are not
            centred).
        window: K, odd.
        small: k, odd, at most K.
    """

    name = "rep_large_kernel"
    rules: ClassVar = {"window": ODD, "small": ODD}

    def __init__(self, in_chs: int, out_chs: int, *, window: int = 7, small: int = 3, **host: Unpack[Host]) -> None:
        super().__init__(in_chs, out_chs, window=window, small=small, **host)
        geo = self.geometry
        each = 0 if geo.groups == 1 else in_chs // geo.groups
        self.layer = ReparamLargeKernelConv(in_chs, out_chs, window, geo.stride, each, small, **factory_of(host))
        self.reset_parameters()

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse dilated hosts, strides above 2, and a small window above the large one."""
        super().check(geometry, **options)
        if geometry.stride > 2:
            raise ValueError(f"{cls.name}: stride={geometry.stride} is refused: the layer takes 1 or 2")
        if geometry.dilation > 1:
            raise ValueError(f"{cls.name}: dilation={geometry.dilation} is refused: the layer has none")
        if options.get("small", 3) > options.get("window", 7):
            raise ValueError(f"{cls.name}: small={options['small']} is refused: it is above window={options['window']}")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve: (B, I, H, W) -> (B, O, H', W')."""
        return self.layer(x_BCHW)

    def _kernel(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            return self.layer.get_kernel_bias()
