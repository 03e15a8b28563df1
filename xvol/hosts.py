"""What surgery and fusing have to know of timm's hosts: norms that hold an activation, and folding of their own."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

from timm.layers import BatchNormAct2d
from torch import nn

__all__ = ["keep_from_reparameterising", "split_norm"]


def split_norm(norm: nn.BatchNorm2d) -> tuple[nn.BatchNorm2d, nn.Module]:
    """The plain norm, and what is left in its place: nothing, or the drop and the activation of a BatchNormAct2d.

    Parameters and buffers of the plain norm are those of `norm`, not copies.
    """
    if not isinstance(norm, BatchNormAct2d):
        return norm, nn.Identity().train(norm.training)
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, device="meta")
    plain._parameters.update(norm._parameters)
    plain._buffers.update(norm._buffers)
    rest = nn.Sequential(OrderedDict(drop=norm.drop, act=norm.act))
    plain.training = rest.training = norm.training
    return plain, rest


def keep_from_reparameterising(model: nn.Module, fqn: str) -> None:
    """Let `timm.utils.model.reparameterize_model` pass over the hosts around `fqn`, whose insides are not theirs any more.

    Such a host (RepVGG's, LeViT's) reads the weights of a convolution and a norm that are gone. It stays as it is,
    which is exact; timm goes on to what stands inside it.
    """
    parts = fqn.split(".")
    for depth in range(1, len(parts)):
        host: Any = model.get_submodule(".".join(parts[:depth]))
        for method in ("fuse", "reparameterize", "switch_to_deploy"):
            if callable(getattr(host, method, None)):
                setattr(host, method, partial(_itself, host))


def _itself(module: nn.Module) -> nn.Module:
    return module
