"""What a user may say about the data, and what of it is allowed. Free of torch, so that `--help` starts fast."""

from dataclasses import dataclass
from pathlib import Path

from xvol.suggest import meant

NAMES = ("digits", "fashion_mnist", "cifar10", "image_folder")
DEFAULT_SIZE = {"digits": 16, "fashion_mnist": 28, "cifar10": 32}
DEFAULT_CHANNELS = {"digits": 1, "fashion_mnist": 1, "cifar10": 3, "image_folder": 3}


@dataclass
class DataConfig:
    """Which images, in which shape, how they are split and how they are fed.

    Attributes:
        name: One of `digits`, `fashion_mnist`, `cifar10`, `image_folder`.
        root: Folder for downloads and decoded images; relative to the working directory.
        path: The user's own images, for `image_folder` alone: `path/<class>/*.png` or
            `path/{train,val,test}/<class>/*.png`.
        download: Whether missing data may be fetched.
        image_size: Height and width in pixels; None is the usual one (digits 16, fashion_mnist 28, cifar10 32).
        channels: 1 or 3; None is the images' own number (3 for `image_folder`).
        train_size: Training images: how many, or, below 1, which share of the images outside of official parts; None
            takes all that remain.
        val_size: Validation images, on which studies choose: how many, or which share of the official validation part, or
            of the images where there is none; None takes that part whole, or a fifth of the images.
        test_size: Test images, likewise.
        split_seed: Fixes the three parts, whatever a trial's own seed is.
        flip: Mirror half of the training images, left to right.
        crop_padding: Random crop of training images after zero padding by so many pixels.
        batch_size: Training batch; the last incomplete one of an epoch is dropped.
        eval_batch_size: Batch for validation and test.
    """

    name: str = "digits"
    root: str = "data"
    path: str | None = None
    download: bool = True
    image_size: int | None = None
    channels: int | None = None
    train_size: int | float | None = None
    val_size: int | float | None = None
    test_size: int | float | None = None
    split_seed: int = 0
    flip: bool = False
    crop_padding: int = 0
    batch_size: int = 128
    eval_batch_size: int = 512


def image_size(config: DataConfig) -> int:
    """The height and width in pixels that the network will see.

    Raises:
        ValueError: If `image_folder` comes without an image_size, which nothing else can tell.
    """
    if config.image_size is not None:
        return config.image_size
    if config.name not in DEFAULT_SIZE:
        raise ValueError(
            f"data.name={config.name} needs data.image_size, as photographs differ in size. "
            "Set it, e.g. data.image_size=64."
        )
    return DEFAULT_SIZE[config.name]


def channels(config: DataConfig) -> int:
    """The number of channels, 1 or 3, that the network will see."""
    return DEFAULT_CHANNELS[config.name] if config.channels is None else config.channels


def check(config: DataConfig) -> None:
    """Refuse what cannot work, before anything is fetched.

    Raises:
        ValueError: For an unknown name (with the near matches) or a value out of its range; says what is allowed.
    """
    if config.name not in NAMES:
        raise ValueError(
            f"data.name={config.name!r} is unknown. Choose one of {', '.join(NAMES)}{meant(config.name, NAMES)}"
        )
    if config.name == "image_folder" and not config.path:
        raise ValueError("data.name=image_folder needs data.path, the folder that holds a folder for each class.")
    if config.name != "image_folder" and config.path is not None:
        raise ValueError(
            f"data.path={config.path} is of data=image_folder, and data.name={config.name}. Leave one of them out."
        )
    if Path(config.root).exists() and not Path(config.root).is_dir():
        raise ValueError(f"data.root={config.root} is a file. Give the folder for downloads and decoded images.")
    if config.channels not in (None, 1, 3):
        raise ValueError(f"data.channels={config.channels} is not allowed. Choose 1 (grey), 3 (colour) or null (own).")
    if not 0 <= config.split_seed < 2**32:
        raise ValueError(f"data.split_seed={config.split_seed} is not allowed. Choose a number from 0 to {2**32 - 1}.")
    for key in ("train_size", "val_size", "test_size"):
        size = getattr(config, key)
        if isinstance(size, float) and not 0 < size < 1:
            raise ValueError(
                f"data.{key}={size} is not allowed. A whole number counts images, a number between 0 and 1 is a share of "
                "them."
            )
    for key in ("image_size", "train_size", "val_size", "test_size", "batch_size", "eval_batch_size"):
        value = getattr(config, key)
        if isinstance(value, int) and value < 1:
            raise ValueError(f"data.{key}={value} is not allowed. It must be at least 1.")
    if not 0 <= config.crop_padding < image_size(config):
        raise ValueError(
            f"data.crop_padding={config.crop_padding} is not allowed. It must be at least 0 and below "
            f"the image size, {image_size(config)} pixels."
        )
