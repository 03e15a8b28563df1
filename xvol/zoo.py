"""Models of our own, registered in timm: small proxies, and timm's ResNets with blocks placed (`xvol_resnet50.stage3`).

After the dot any policy may stand. `import timm` after `import xvol` registers them (`xvol/timm_hook.py`), in the midst of
whatever module wanted timm; so the operator's own modules are reached through the package, when a model is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import timm
import torch
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    register_model,
)
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

import xvol
from xvol.block import CONV, BlockSpec

HOSTS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "wide_resnet50_2")
POLICIES = ("stage3", "stage1", "stage2", "stage4", "all")  # the first, the paper's best, is the default
_EDGE = 64  # pixels; where the sites are does not depend on it


def _weights(host: str) -> PretrainedCfg:
    """What timm knows of the plain model: where its weights are, and how images are prepared."""
    known = get_pretrained_cfg(host)
    assert known is not None
    return replace(known, architecture=None, tag=None)


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
        **{f"xvol_{host}.{policy}": _weights(host) for host in HOSTS for policy in POLICIES},
    }
)


class ProxyResNet(ResNet):
    """timm's ResNet with a narrow stem for small images: one 3x3 stride-2 convolution of `channels[0]`, no max-pool.

    timm fixes 64 channels after a plain stem. Its deep stem has `2 * stem_width` of them, so that one is asked for,
    which makes timm build the stages to the right width, and is then replaced. ValueError where `layers` and `channels` are not of
    four stages, or `channels[0]` is odd.
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

    It takes what timm's ResNet takes, e.g. `num_classes`, `in_chans`, `layers`, `channels`, `drop_path_rate`; there are no
    pretrained weights.
    """
    if pretrained:
        raise ValueError("xvol_proxy_resnet has no pretrained weights: leave pretrained=False and train it")
    arguments: dict[str, Any] = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (8, 16, 32, 64)}
    return build_model_with_cfg(ProxyResNet, "xvol_proxy_resnet", pretrained, **(arguments | kwargs))


def _build(
    host: str,
    pretrained: bool = False,
    *,
    placement: str | None = None,
    branches: Sequence[str] = (CONV, "pssa"),
    branch_options: Mapping[str, Mapping[str, Any]] | None = None,
    gamma: float | None = None,
    pretrained_cfg: Any = None,
    **kwargs: Any,
) -> nn.Module:
    """Build `host` with timm, its pretrained weights included, and convert what the placement names.

    A state dict or checkpoint of the plain host can be loaded later too: its convolutions and norms go where the
    blocks hold them, and the other branches stay as they are, but for their norms' weights where gamma is None.

    Args:
        host: name of the plain model.
        pretrained: load the host's own weights; with gamma 0, the default then, logits are the host's.
        placement: a policy (`xvol.placement.GRAMMAR`); None takes it from the name after the dot, else stage3.
        branches, branch_options: of every block, as in `BlockSpec.make`.
        gamma: likewise. None: 1, the paper's batch norm, to train from scratch; and `BlockSpec`'s default, 0 beside a
            conv branch, with the host's weights, pretrained or loaded later.
        pretrained_cfg: what stands after the dot in the name, or a configuration for the host.
        kwargs: as in `timm.create_model`, `features_only` included.

    Raises:
        ValueError: the policy names nothing, or a branch or an option is unknown.
    """
    tag = pretrained_cfg if isinstance(pretrained_cfg, str) else None
    policy = placement or tag or POLICIES[0]
    from_scratch = gamma is None and not pretrained
    spec = BlockSpec.make(branches, branch_options, 1.0 if from_scratch else gamma)
    model = timm.create_model(host, pretrained=pretrained, pretrained_cfg=None if tag else pretrained_cfg, **kwargs)
    stem = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    size = (stem.in_channels, _EDGE, _EDGE)
    chosen = xvol.select(xvol.sites(model, size), policy)
    xvol.convert(model, {site.fqn: spec for site in chosen}, size)
    model.register_load_state_dict_pre_hook(partial(_take_plain, chosen, gamma is None))
    for name in ("pretrained_cfg", "default_cfg"):
        if isinstance(getattr(model, name, None), dict):
            setattr(model, name, getattr(model, name) | {"architecture": f"xvol_{host}", "tag": policy})
    return model


def _take_plain(
    chosen: Sequence[xvol.Site], keep_function: bool, model: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Move what a plain host's state dict holds of each block to where the block holds it.

    Args:
        keep_function: the weights of the norms after the other branches become what preserves the host's function.
    """
    for site in chosen:
        block = model.get_submodule(site.fqn)
        fqn = f"{prefix}{site.fqn}."
        if not isinstance(block, xvol.XVolution2d) or f"{fqn}weight" not in state_dict:
            continue
        own = {f"{fqn}{key}": value for key, value in block.state_dict().items()}
        for name in block.spec.branches if keep_function else ():
            if name != CONV:
                weight = f"{fqn}norms.{name}.weight"
                own[weight] = torch.full_like(own[weight], replace(block.spec, gamma=None).initial_gamma)
        _move(state_dict, fqn, f"{fqn}branches.{CONV}.conv.", own)
        if site.norm_fqn is not None:
            _move(state_dict, f"{prefix}{site.norm_fqn}.", f"{fqn}norms.{CONV}.", own)
        for key, value in own.items():
            state_dict.setdefault(key, value)


def _move(state_dict: dict[str, Any], old: str, new: str, own: dict[str, Tensor]) -> None:
    """Rename the keys of one layer; what has no place of its shape in the block, such as another kernel, is dropped."""
    for key in [key for key in state_dict if key.startswith(old) and "." not in key.removeprefix(old)]:
        value, name = state_dict.pop(key), new + key.removeprefix(old)
        if name in own and own[name].shape == value.shape:
            state_dict[name] = value


def _entrypoint(host: str) -> Callable[..., nn.Module]:
    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _build(host, pretrained, **kwargs)

    build.__name__ = build.__qualname__ = f"xvol_{host}"
    build.__doc__ = f"{host} with X-volution blocks; the placement stands after the dot, as in xvol_{host}.stage3."
    return build


for _host in HOSTS:
    register_model(_entrypoint(_host))
