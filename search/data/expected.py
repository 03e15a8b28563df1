"""What a whole published data set holds, so that a partial one is never taken for it."""

from dataclasses import dataclass

import numpy as np

from search.data.cache import Decoded


@dataclass(frozen=True)
class Expected:
    """The size and class counts of a published data set, training images first.

    Attributes:
        shape: (channels, height, width) of one image.
        classes: The class names, in label order.
        train_per_class: Training images of each class.
        test_per_class: Test images of each class.
    """

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    train_per_class: int
    test_per_class: int

    @property
    def train(self) -> int:
        """Number of training images."""
        return self.train_per_class * len(self.classes)

    @property
    def test(self) -> int:
        """Number of test images."""
        return self.test_per_class * len(self.classes)

    def check(self, decoded: Decoded) -> None:
        """Compare decoded arrays with what must be there.

        Raises:
            ValueError: If a shape, a type or the number of images of a class differs; says both.
        """
        images, labels = decoded.images, decoded.labels
        want = (self.train + self.test, *self.shape)
        if images.shape != want or images.dtype != np.uint8:
            raise ValueError(f"the images have shape {images.shape} and type {images.dtype}, not {want} and uint8")
        if labels.shape != want[:1] or labels.dtype != np.int64:
            raise ValueError(f"the labels have shape {labels.shape} and type {labels.dtype}, not {want[:1]} and int64")
        parts = {
            "training": (labels[: self.train], self.train_per_class),
            "test": (labels[self.train :], self.test_per_class),
        }
        for part, (found, each) in parts.items():
            if found.min() < 0 or found.max() >= len(self.classes):
                raise ValueError(f"the {part} labels run from {found.min()} to {found.max()}, not within 0 to 9")
            counts = np.bincount(found, minlength=len(self.classes))
            if (counts != each).any():
                raise ValueError(f"the {part} part holds {counts.tolist()} images of the classes, not {each} of each")
