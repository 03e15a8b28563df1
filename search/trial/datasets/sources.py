"""From a name to all of its images: the one place that knows every source."""

from pathlib import Path

from search.trial.datasets import cifar10, digits, fashion_mnist, image_folder
from search.trial.datasets.config import DataConfig, channels, check, image_size
from search.trial.datasets.image_set import ImageSet

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
        return image_folder.load(Path(config.path).expanduser(), root, image_size(config), channels(config))
    return digits.load()
