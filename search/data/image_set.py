"""The value that every source hands on: all images as one uint8 tensor, with labels, class names and origin."""

import zlib
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from search.space.architecture import digest


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
