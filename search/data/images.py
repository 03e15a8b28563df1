"""From a data set to the images of a trial: split, resized, in memory. Test images come only to who asks for them by name."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from search.data.config import DataConfig, channels, image_size
from search.data.sources import source_module
from search.data.splits import Labelled, split_labels
from search.space.architecture import digest

__all__ = ["Data", "DataInfo", "ImageSet", "TensorPair", "load_data", "load_images"]

CHUNK = 4096  # images that are resized at a time
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's mode "L"


class TensorPair(NamedTuple):
    """Images and their labels.

    Attributes:
        images: uint8 of shape (N, C, H, W), values 0 to 255.
        labels: int64 of shape (N,), values 0 to classes - 1.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ImageSet:
    """A whole data set in its own size and channels, before it is split.

    Images lie in the order: official training part, official validation part, official test part.

    Attributes:
        images: uint8 of shape (N, C, H, W), values 0 to 255.
        labels: int64 of shape (N,), values 0 to len(classes) - 1.
        classes: The class names, in label order.
        source: Where the images came from, in words.
        mean: Usual mean for each channel in units of [0, 1]; None where the training split has to tell.
        std: Usual standard deviation, likewise.
        official_val: How many images before the test part are the official validation set.
        official_test: How many of the last images are the official test set.
        crc32: Checksums of images and labels, where the source knows them already.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    official_val: int = 0
    official_test: int = 0
    crc32: tuple[int, int] | None = None

    @property
    def digest(self) -> str:
        """Ten hexadecimal digits over all that a trial is given: pixels, labels, their order, classes, official parts.

        Where the images lie and how they came there is no part of it.
        """
        crc32 = self.crc32 or (
            zlib.crc32(self.images.contiguous().numpy().data),
            zlib.crc32(self.labels.contiguous().numpy().data),
        )
        shape, parts = list(self.images.shape), [self.official_val, self.official_test]
        return digest([list(crc32), shape, list(self.classes), parts, self.mean, self.std])


@dataclass(frozen=True)
class DataInfo:
    """What is known of a trial's data before it is trained.

    Attributes:
        classes: the class names, in label order.
        channels: 1 or 3.
        image_size: height and width in pixels.
        mean: mean of each channel in units of [0, 1]: the published one, or that of the training part.
        std: standard deviation, likewise.
        source: where the images came from, in words.
        digest: of all images and labels as they were read, test images included; see `ImageSet.digest`.
    """

    classes: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    digest: str


@dataclass(frozen=True)
class Data:
    """The images and labels of a trial's splits, on the CPU; test is None unless it was asked for."""

    train: TensorPair
    val: TensorPair
    test: TensorPair | None
    info: DataInfo


def load_images(config: DataConfig) -> ImageSet:
    """Load a whole data set in its own size and channels (`image_folder`: in the asked ones), fetching it if needed.

    Raises:
        ValueError: the config asks for what cannot be, or the images are absent, damaged or not whole.
    """
    config.check()
    images: ImageSet = source_module(config.name).load(config)
    return images


def load_data(config: DataConfig, *, with_test: bool) -> Data:
    """Load, split, resize.

    Args:
        config: which data.
        with_test: only the final re-evaluation may say True. Otherwise `Data.test` is None, so that nothing can be
            chosen on test images.

    Raises:
        ValueError: one message for the user: what was given, what is allowed, how to mend it.
    """
    images = load_images(config)
    parts = Labelled(images.labels.numpy(), images.classes, images.official_val, images.official_test)
    splits = split_labels(parts, config)
    wanted_size, wanted_channels = image_size(config), channels(config)

    def take(index: Tensor) -> TensorPair:
        fitted = match_channels(resize(images.images[index], wanted_size), wanted_channels)
        return TensorPair(fitted, images.labels[index])

    train = take(splits.train)
    if images.mean is not None and images.std is not None and images.images.shape[1] == wanted_channels:
        mean, std = images.mean, images.std
    else:
        mean, std = mean_and_std(train.images)
    info = DataInfo(images.classes, wanted_channels, wanted_size, mean, std, images.source, images.digest)
    return Data(train, take(splits.val), take(splits.test) if with_test else None, info)


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
