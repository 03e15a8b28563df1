"""Bringing uint8 images to the size and the channels that the network is to see, and measuring their statistics."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

CHUNK = 4096
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's mode "L"


def resize(images: Tensor, size: int) -> Tensor:
    """Resize uint8 images (N, C, H, W) to (N, C, size, size), bilinear, antialiased where they shrink."""
    if images.shape[-2:] == (size, size):
        return images
    parts = [
        interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True).round_().clamp_(0, 255)
        for part in images.split(CHUNK)
    ]
    return torch.cat([part.to(torch.uint8) for part in parts])


def match_channels(images: Tensor, channels: int) -> Tensor:
    """Repeat grey images (N, 1, H, W) to 3 channels, or weigh colour images (N, 3, H, W) down to 1. uint8."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    weights = torch.tensor(LUMA).view(1, 3, 1, 1)
    grey = [(part.float() * weights).sum(1, keepdim=True).round_().to(torch.uint8) for part in images.split(CHUNK)]
    return torch.cat(grey)


def mean_and_std(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images (N, C, H, W), in units of [0, 1].

    A channel without any contrast gets one grey level as its deviation, so that it can be divided by.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (share * levels).sum()
        std = (share * (levels - mean).square()).sum().sqrt()
        means.append(mean.item())
        stds.append(max(std.item(), 1 / 255))
    return tuple(means), tuple(stds)
