"""The norms after a convolution that blocks take over and `fuse` folds: batch norms, frozen ones, and timm's with an activation inside."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias, cast

from timm.layers import BatchNormAct2d
from timm.layers.norm_act import FrozenBatchNorm2d, FrozenBatchNormAct2d  # torchvision's, and timm's with an activation
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

HostNorm: TypeAlias = nn.BatchNorm2d | FrozenBatchNorm2d
FROZEN = (FrozenBatchNorm2d, FrozenBatchNormAct2d)
KINDS = (nn.BatchNorm2d, BatchNormAct2d, *FROZEN)  # these classes alone: what a subclass adds would be lost


def is_batch_norm(module: nn.Module) -> bool:
    """Whether it is a batch norm of any kind, frozen ones included."""
    return isinstance(module, (_BatchNorm, *FROZEN))


def fault(norm: nn.Module) -> str | None:
    """What its statistics or its affine part lack; None of a norm that is at rest on fixed numbers."""
    if isinstance(norm, FROZEN) or not isinstance(norm, _BatchNorm):
        return None
    if norm.affine and norm.track_running_stats:
        return None
    return f"its {type(norm).__name__} has no {'running statistics' if norm.affine else 'affine part'}"


def split_norm(norm: nn.Module) -> tuple[HostNorm, nn.Module]:
    """The plain norm, of the same parameters and buffers, and what is left in its place: drop and activation of one that has them."""
    if isinstance(norm, BatchNormAct2d):
        plain: HostNorm = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, device="meta")
    elif isinstance(norm, FrozenBatchNormAct2d):
        plain = FrozenBatchNorm2d(cast(Tensor, norm.weight).shape[0], norm.eps)
    else:
        assert isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d)
        return norm, nn.Identity().train(norm.training)
    plain._parameters.update(norm._parameters)
    plain._buffers.update(norm._buffers)
    rest = nn.Sequential(OrderedDict(drop=norm.drop, act=norm.act))
    plain.training = rest.training = norm.training
    return plain, rest
