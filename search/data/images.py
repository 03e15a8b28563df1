"""From a data set to the images of a trial: split, resized, in memory. Test images come only to who asks for them by name."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from search.data.config import DataConfig, channels, image_size, source_of
from search.space.architecture import digest

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
    images: ImageSet = import_module(source_of(config.name).module).load(config)  # whichever is asked for
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


class Splits(NamedTuple):
    """Indices into a data set, each int64, ascending, without repeats; no index is in two of them."""

    train: Tensor
    val: Tensor
    test: Tensor


class Labelled(NamedTuple):
    """What is known of images before they are decoded.

    Attributes:
        labels: int64 of shape (N,), in the order: training part, official validation part, official test part.
        classes: The class names, in label order.
        official_val: How many images before the test part are the official validation set.
        official_test: How many of the last images are the official test set.
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    official_val: int = 0
    official_test: int = 0


def split_labels(images: Labelled, config: DataConfig) -> Splits:
    """Draw the three parts, each with the class shares of what it is drawn from.

    Test comes first and from the official test part if there is one, then validation, then training: so neither
    test nor validation changes with train_size, and test does not change with val_size.

    Raises:
        ValueError: If a part is larger than what is there, a class is left without training images, or the batch
            is larger than the training part.
    """
    labels = images.labels
    everything = np.arange(len(labels))
    held_out = images.official_val + images.official_test
    rest, official_val, official_test = np.split(
        everything, [len(labels) - held_out, len(labels) - images.official_test]
    )
    own = len(rest)
    # RandomState, because NumPy promises that its stream never changes: a split outlives library versions.
    random = np.random.RandomState(config.split_seed)

    if images.official_test:
        size = count_of(config.test_size, len(official_test), len(official_test))
        test, _ = _draw(official_test, labels, size, "test", "the official test part", random)
    else:
        size = count_of(config.test_size, own, max(own // 5, 1))
        test, rest = _draw(rest, labels, size, "test", "the images", random)
    if images.official_val:
        size = count_of(config.val_size, len(official_val), len(official_val))
        val, _ = _draw(official_val, labels, size, "val", "the official validation part", random)
    else:
        size = count_of(config.val_size, own, max(own // 5, 1))
        val, rest = _draw(rest, labels, size, "val", "what the test part leaves", random)
    size = count_of(config.train_size, own, len(rest))
    train, _ = _draw(rest, labels, size, "train", "what validation and test leave", random)

    _check_training(labels[train], images.classes, config)
    return Splits(*(torch.from_numpy(part) for part in (train, val, test)))


def count_of(size: int | float | None, of: int, default: int) -> int:
    """How many images a configured size is: a count, a share (below 1) of `of` images and at least one, or `default`."""
    if size is None:
        return default
    return max(round(size * of), 1) if isinstance(size, float) else size


def _draw(
    pool: np.ndarray, labels: np.ndarray, size: int, part: str, origin: str, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Take `size` indices from the pool, stratified; return them and what is left, both ascending."""
    if size > len(pool):
        raise ValueError(f"data.{part}_size={size} is too large: {origin} holds {len(pool)} images. Ask for fewer.")
    shuffled = random.permutation(pool)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels[pool]) if len(pool) else np.zeros(0, dtype=np.int64)
    ends = np.cumsum(counts)
    taken = np.zeros(len(pool), dtype=bool)
    for end, count, share in zip(ends, counts, shares(counts, size), strict=True):
        taken[end - count : end - count + share] = True
    return np.sort(by_class[taken]), np.sort(by_class[~taken])


def shares(counts: np.ndarray, size: int) -> np.ndarray:
    """Divide `size` among classes in proportion to their counts, by largest remainders.

    Args:
        counts: int64 of shape (classes,), the images of each class.
        size: How many to divide, at most the sum of the counts.

    Returns:
        int64 of shape (classes,): sums to `size`, nowhere above `counts`, and less than 1 off the exact quota.
    """
    total = max(int(counts.sum()), 1)
    share, remainder = np.divmod(counts * size, total)
    largest = np.argsort(-remainder, kind="stable")[: size - int(share.sum())]
    share[largest] += 1
    return share


def _check_training(labels: np.ndarray, classes: tuple[str, ...], config: DataConfig) -> None:
    empty = [
        name for name, count in zip(classes, np.bincount(labels, minlength=len(classes)), strict=True) if not count
    ]
    if empty:
        raise ValueError(
            f"The training part of {len(labels)} images has none of the classes {', '.join(empty[:5])}. Raise "
            "data.train_size, or lower data.val_size and data.test_size."
        )
    if config.batch_size > len(labels):
        raise ValueError(
            f"data.batch_size={config.batch_size} is larger than the training part of {len(labels)} images. "
            f"Choose at most {len(labels)}."
        )
