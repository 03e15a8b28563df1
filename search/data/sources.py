"""From a name to all of its images: the one place that knows every source."""

from pathlib import Path

import numpy as np

from search.data import cifar10, digits, fashion_mnist, image_folder
from search.data.config import DataConfig, channels, check, image_size
from search.data.image_set import ImageSet
from search.data.splits import Labelled, split_labels

__all__ = ["ImageSet", "load_images"]


def load_images(config: DataConfig) -> ImageSet:
    """Load a whole data set in its own size and channels (`image_folder`: in the asked ones), fetching it if needed.

    Raises:
        ValueError: If the config asks for what cannot be, or the images are absent, damaged or not whole.
    """
    check(config)
    root = Path(config.root).expanduser()
    if config.name == "cifar10":
        return cifar10.load(root, config.download)
    if config.name == "fashion_mnist":
        return fashion_mnist.load(root, config.download)
    if config.name == "image_folder":
        assert config.path is not None  # check() has seen to it
        folder = Path(config.path).expanduser()
        listing = image_folder.list_pictures(folder)
        there = Labelled(np.array(listing.labels, dtype=np.int64), listing.classes, listing.val, listing.test)
        split_labels(there, config)  # parts that cannot be had are refused before anything is decoded
        return image_folder.load(folder, root, image_size(config), channels(config), listing)
    return digits.load()
