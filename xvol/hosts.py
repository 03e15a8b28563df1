"""What a block stands in for: convolutions, some of standardised weights, and the batch norm behind one, which `fuse` folds."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TypeAlias, cast

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from timm.layers.norm_act import FrozenBatchNorm2d, FrozenBatchNormAct2d  # torchvision's, and timm's with an activation
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

HostNorm: TypeAlias = nn.BatchNorm2d | FrozenBatchNorm2d
FROZEN = (FrozenBatchNorm2d, FrozenBatchNormAct2d)
KINDS = (nn.BatchNorm2d, BatchNormAct2d, *FROZEN)  # these classes alone: what a subclass adds would be lost
# each is one convolution whatever its input; what another subclass does with its weights is not known
CONVS = (nn.Conv2d, Conv2dSame, StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)


def pads_by_image(conv: nn.Conv2d) -> bool:
    """Whether its border is TensorFlow's "same": as wide as the image wants it, and under a stride not equal on both sides."""
    return isinstance(conv, Conv2dSame) or bool(getattr(conv, "same_pad", False))


@torch.no_grad()
def kernel_of(conv: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    """The kernel (O, I / g, k, k) that one of `CONVS` of an odd, square window convolves with, and its bias (O,) or None.

    Of a convolution that standardises its weights: its answer to impulses.
    """
    if type(conv) in (nn.Conv2d, Conv2dSame):
        return conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
    size, each = conv.kernel_size[0], conv.in_channels // conv.groups
    twin = copy.deepcopy(conv)
    twin.bias, twin.stride, twin.dilation = None, (1, 1), (1, 1)
    twin.padding = (0, 0) if pads_by_image(twin) else (size // 2, size // 2)
    impulses = torch.eye(each, dtype=conv.weight.dtype, device=conv.weight.device).repeat(1, conv.groups)
    image_BCHW = torch.zeros(*impulses.shape, size, size, dtype=impulses.dtype, device=impulses.device)
    image_BCHW[:, :, size // 2, size // 2] = impulses
    return twin(image_BCHW).transpose(0, 1).flip(-1, -2), None if conv.bias is None else conv.bias.detach()


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
