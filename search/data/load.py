"""The one entry: from a DataConfig to the images of a trial. Test images come only to who asks for them by name."""

from dataclasses import dataclass

from torch import Tensor

from search.data.config import DataConfig, channels, image_size
from search.data.fit import match_channels, mean_and_std, resize
from search.data.image_set import TensorPair
from search.data.sources import load_images
from search.data.splits import make_splits

__all__ = ["Data", "TensorPair", "load_data"]


@dataclass(frozen=True)
class Data:
    """The images of a trial, on the CPU.

    Attributes:
        train: Training images and labels.
        val: Validation images and labels, on which studies choose.
        test: Test images and labels; None unless they were asked for.
        classes: The class names, in label order.
        channels: 1 or 3.
        image_size: Height and width in pixels.
        mean: Mean of each channel in units of [0, 1]: the published one, or that of the training part.
        std: Standard deviation, likewise.
        source: Where the images came from, in words.
        digest: Of all images and labels as they were read, test images included; see `ImageSet.digest`.
    """

    train: TensorPair
    val: TensorPair
    test: TensorPair | None
    classes: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    digest: str


def load_data(config: DataConfig, *, with_test: bool) -> Data:
    """Load, split, resize.

    Args:
        config: Which data.
        with_test: Only the final re-evaluation may say True. Otherwise `Data.test` is None, so that nothing can be
            chosen on test images.

    Raises:
        ValueError: One message for the user: what was given, what is allowed, how to mend it.
    """
    images = load_images(config)
    splits = make_splits(images, config)
    wanted_size, wanted_channels = image_size(config), channels(config)

    def take(index: Tensor) -> TensorPair:
        fitted = match_channels(resize(images.images[index], wanted_size), wanted_channels)
        return TensorPair(fitted, images.labels[index])

    train = take(splits.train)
    if images.mean is not None and images.std is not None and images.images.shape[1] == wanted_channels:
        mean, std = images.mean, images.std
    else:
        mean, std = mean_and_std(train.images)
    return Data(
        train=train,
        val=take(splits.val),
        test=take(splits.test) if with_test else None,
        classes=images.classes,
        channels=wanted_channels,
        image_size=wanted_size,
        mean=mean,
        std=std,
        source=images.source,
        digest=images.digest,
    )
