"""Backbones of our own, registered in timm: small proxies on which placements are compared quickly."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

import xvol.converted  # noqa: F401  # registers xvol_resnet50 and its like

__all__ = ["ProxyResNet"]

default_cfgs = generate_default_cfgs(
    {
        "xvol_proxy_resnet": {
            "url": "",
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "min_input_size": (3, 2, 2),
            "pool_size": (2, 2),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": (0.4914, 0.4822, 0.4465),
            "std": (0.2470, 0.2435, 0.2616),
            "first_conv": "conv1",
            "classifier": "fc",
            "license": "apache-2.0",
        },
    }
)


class ProxyResNet(ResNet):
    """timm's ResNet with a narrow stem for small images: one 3x3 stride-2 convolution of `channels[0]`, no max-pool.

    timm fixes 64 channels after a plain stem. Its deep stem has `2 * stem_width` of them, so that one is asked for,
    which makes timm build the stages to the right width, and is then replaced.

    Args:
        channels: of the four stages; the first must be even.
        kwargs: as in timm's ResNet.

    Raises:
        ValueError: there are not four stages, one for each of timm's; or `channels[0]` is odd.
    """

    def __init__(
        self,
        block: type[nn.Module],
        layers: tuple[int, ...],
        channels: tuple[int, ...],
        *,
        zero_init_last: bool = False,
        **kwargs: Any,
    ) -> None:
        if len(layers) != 4 or len(channels) != 4:
            raise ValueError(f"layers={tuple(layers)} and channels={tuple(channels)} must name four stages each")
        width = channels[0]
        if width < 2 or width % 2:
            raise ValueError(f"channels={tuple(channels)} must start with an even number: the stem is as wide")
        arguments: dict[str, Any] = {"stem_type": "deep", "stem_width": width // 2, "zero_init_last": False}
        super().__init__(**arguments, block=block, layers=layers, channels=channels, **kwargs)  # type: ignore[arg-type]
        factory: dict[str, Any] = {"device": kwargs.get("device"), "dtype": kwargs.get("dtype")}
        stem: Any = nn.Conv2d(self.in_chans, width, 3, stride=2, padding=1, bias=False, **factory)
        no_pool: Any = nn.Identity()
        info: list[dict[str, Any]] = self.feature_info
        self.conv1, self.maxpool = stem, no_pool
        for stage in info[1:]:
            stage["reduction"] //= 2  # timm reckons with the max-pool that is gone
        self.init_weights(zero_init_last=zero_init_last)


@register_model
def xvol_proxy_resnet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Proxy of a CPU-minute: one BasicBlock in each stage, 8 to 64 channels, for images of about 32x32.

    Args:
        pretrained: must be False, for there are no weights.
        kwargs: as in timm's ResNet, e.g. `num_classes`, `in_chans`, `layers`, `channels`, `drop_path_rate`.

    Raises:
        ValueError: pretrained weights were asked for.
    """
    if pretrained:
        raise ValueError("xvol_proxy_resnet has no pretrained weights: leave pretrained=False and train it")
    arguments: dict[str, Any] = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (8, 16, 32, 64)}
    return build_model_with_cfg(ProxyResNet, "xvol_proxy_resnet", pretrained, **(arguments | kwargs))
