"""From a data set to the images of a trial: split, and in memory where they can be. Test images come only to who asks for them."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, NamedTuple

import PIL
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

import xvol  # noqa: F401  # before timm, where torch is a CPU build: see xvol/timm_hook.py

# isort: split
import torchvision
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg

from search.data.config import Augmentation, DataConfig, channels, image_size
from search.data.sources import source_of
from search.data.splits import Labelled, Splits, split_labels
from search.ledger.files import digest

CHUNK = 4096  # images that are resized at a time
MODES = {1: "L", 3: "RGB"}  # Pillow's, by the number of channels
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
class PictureSet:
    """A whole data set of pictures that are decoded when they are asked for; in the order of an `ImageSet`.

    Attributes:
        open: decodes the picture of an index, in the mode of the trial's channels; ValueError where it cannot be read, with its name.
        digest: ten hexadecimal digits over names and sizes of all pictures, their order, labels, classes and official parts: enough
            to see that one was added, taken away or made anew, at a cost that a million of them allow.
        labels, classes, source, official_val, official_test: as of an `ImageSet`.
    """

    open: Callable[[int], Image.Image]
    labels: Tensor
    classes: tuple[str, ...]
    source: str
    digest: str
    official_val: int = 0
    official_test: int = 0

    @classmethod
    def make(cls, open: Callable[[int], Image.Image], known: Labelled, source: str, content: Any) -> PictureSet:
        """A set of which `content`, plain values, tells names and sizes; its first picture is decoded, to see that it can be."""
        open(0)
        labels, official = torch.from_numpy(known.labels), (known.official_val, known.official_test)
        facts = [content, zlib.crc32(known.labels.data), list(known.classes), *official]
        return cls(open, labels, known.classes, source, digest(facts), *official)


@dataclass(frozen=True)
class Pictures:
    """The pictures of one split; `open` decodes the picture of one of its `index`, int64 (N,), and `labels` are int64 (N,)."""

    open: Callable[[int], Image.Image]
    index: Tensor
    labels: Tensor


@dataclass(frozen=True)
class DataInfo:
    """What is known of a trial's data before it is trained.

    Attributes:
        classes: the class names, in label order.
        channels: 1 or 3.
        image_size: height and width in pixels.
        mean: mean of each channel in units of [0, 1]: the published one, or that of the training part; of pictures that are decoded
            on the way, what timm has for the backbone, or ImageNet's.
        std: standard deviation, likewise.
        source: where the images came from, in words.
        digest: of all images and labels, test images included; see `ImageSet.digest` and `PictureSet.digest`. Where timm's
            transforms change pictures, also of the releases of Pillow and torchvision that do it.
        crop_pct, crop_mode, interpolation: how timm cuts and resizes such a picture for evaluation.
    """

    classes: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    digest: str
    crop_pct: float = 1.0
    crop_mode: str = "center"
    interpolation: str = "bilinear"

    @classmethod
    def without_data(cls, classes: int, channels: int, image_size: int) -> DataInfo:
        """What the shapes of a network need, for who builds one and loads no data."""
        names = tuple(map(str, range(classes)))
        return cls(names, channels, image_size, (0.0,) * channels, (1.0,) * channels, source="", digest="")


@dataclass(frozen=True)
class Data:
    """The images and labels of a trial's splits, on the CPU; no test unless it was asked for, no probe where nothing is kept."""

    train: TensorPair | Pictures
    val: TensorPair | Pictures
    test: TensorPair | Pictures | None
    info: DataInfo
    splits: Splits
    probe: TensorPair | Pictures | None = None


def crops(augmentation: Augmentation) -> bool:
    """Whether there is a random crop of random area."""
    return augmentation.scale is not None or augmentation.ratio is not None


def needs_pictures(augmentation: Augmentation) -> bool:
    """Whether it takes timm's transforms of pictures: those in batches, of images in memory, have not all of it."""
    return bool(augmentation.aa or augmentation.color_jitter) or augmentation.train_interpolation != "bilinear"


def load_images(config: DataConfig) -> ImageSet | PictureSet:
    """Load a whole data set in its own size and channels (`folder`: in the asked ones), fetching it if needed.

    Raises:
        ValueError: the config asks for what cannot be, or the images are absent, damaged or not whole.
    """
    config.check()
    images: ImageSet | PictureSet = import_module(source_of(config.name).module).load(config)  # whichever is asked for
    return images


def load_data(
    config: DataConfig, augmentation: Augmentation | None = None, backbone: str = "", *, with_test: bool
) -> Data:
    """Load, split, resize.

    Args:
        config: which data.
        augmentation: of the recipe; says whether images in memory will do.
        backbone: timm's name of the network that pictures are normalised and cut for, where they are decoded on the way.
        with_test: only the final re-evaluation may say True. Otherwise `Data.test` is None, so that nothing can be
            chosen on test images.

    Raises:
        ValueError: one message for the user: what was given, what is allowed, how to mend it.
    """
    by_timm = augmentation is not None and needs_pictures(augmentation)
    if by_timm:
        config = replace(config, in_memory_mb=0)
    images = load_images(config)
    parts = Labelled(images.labels.numpy(), images.classes, images.official_val, images.official_test)
    splits = split_labels(parts, config)
    take, info = (
        _pictures(images, config, backbone) if isinstance(images, PictureSet) else _in_memory(images, splits, config)
    )
    if by_timm or isinstance(images, PictureSet):  # another release, other pixels
        changed_by = {"pillow": PIL.__version__, "torchvision": torchvision.__version__}
        info = replace(info, digest=digest([info.digest, changed_by]))
    probed = splits.probed(with_test)
    return Data(
        train=take(splits.train),
        val=take(splits.val),
        test=take(splits.test) if with_test else None,
        info=info,
        splits=splits,
        probe=take(probed) if len(probed) else None,
    )


def _in_memory(images: ImageSet, splits: Splits, config: DataConfig) -> tuple[Callable[[Tensor], TensorPair], DataInfo]:
    """What gives the images of some indices, and what is known of them."""
    wanted_size, wanted_channels = image_size(config), channels(config)

    def take(index: Tensor) -> TensorPair:
        fitted = match_channels(resize(images.images[index], wanted_size), wanted_channels)
        return TensorPair(fitted, images.labels[index])

    if images.mean is not None and images.std is not None and images.images.shape[1] == wanted_channels:
        mean, std = images.mean, images.std
    else:
        mean, std = mean_and_std(take(splits.train).images)
    return take, DataInfo(images.classes, wanted_channels, wanted_size, mean, std, images.source, images.digest)


def _pictures(images: PictureSet, config: DataConfig, backbone: str) -> tuple[Callable[[Tensor], Pictures], DataInfo]:
    """Likewise. Mean, deviation and cut are as timm resolves them for the backbone: there is no pass over the data."""
    number, known = channels(config), get_pretrained_cfg(backbone) if backbone else None
    chosen = {"in_chans": number, "crop_pct": config.crop_pct, "interpolation": config.interpolation}
    resolved = resolve_data_config(chosen, known.to_dict() if known else None)
    mean, std = (
        tuple(values) if len(values) == number else (sum(values) / len(values),) * number
        for values in (resolved["mean"], resolved["std"])
    )
    cut = {name: resolved[name] for name in ("crop_pct", "crop_mode", "interpolation")}
    info = DataInfo(images.classes, number, image_size(config), mean, std, images.source, images.digest, **cut)
    return lambda index: Pictures(images.open, index, images.labels[index]), info


def pictures_of(pair: TensorPair) -> Pictures:
    """Images in memory as pictures, for what timm does to pictures."""
    return Pictures(functools.partial(_as_picture, pair.images), torch.arange(len(pair.labels)), pair.labels)


def _as_picture(images: Tensor, index: int) -> Image.Image:
    return Image.fromarray(images[index].permute(1, 2, 0).squeeze(2).numpy())


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
