"""What a user may say about the data. Free of torch, so that `--help` starts fast."""

import logging
from dataclasses import dataclass
from pathlib import Path

from search.data.sources import SOURCES, source_names, source_of
from xvol.allowed import check_choice, check_number, meant

log = logging.getLogger("xvol")


ALTERNATE = "alternate"
COCO_KEYS = ("train", "val", "test", "train_images", "val_images", "test_images")
BACKGROUNDS = ("sklearn", "packages")
EMPTY_BOXES = ("refuse", "skip")
UNPAIRED = ("wds", "tfds", "hfids")
RENAMED = {"image_folder": "folder"}
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "box", "hamming", "lanczos")
POLICIES = ("rand", "augmix", "original", "originalr", "v0", "v0r", "3a")


@dataclass
class Augmentation:
    """What is drawn for each training image beside flip and crop padding; part of the recipe, in the words of timm's train.py.

    Attributes:
        scale: smallest and largest share of the area that a random crop takes (RandomResizedCrop), e.g. [0.08, 1]; null: timm's
            range where `ratio` is given, otherwise no such crop. With it `data.crop_padding` is of no effect.
        ratio: smallest and largest width over height of that crop; null: timm's, 3/4 to 4/3, where `scale` is given.
        aa: timm's AutoAugment, RandAugment or AugMix, e.g. "rand-m7-mstd0.5-inc1"; null: none.
        color_jitter: strength of jitter in brightness, contrast and saturation; null: none. Beside `aa` timm takes it for the
            policy "3a" alone.
        train_interpolation: of training pictures that are decoded on the way: "bilinear", "bicubic", "random" (one of the two), ...
        repeats: how many times an epoch takes each of its images, one after the other and each time drawn anew (repeated
            augmentation); the epoch's length stays, so it takes fewer images. 0 and 1: once.
    """

    scale: list[float] | None = None
    ratio: list[float] | None = None
    aa: str | None = None
    color_jitter: float | None = None
    train_interpolation: str = "bilinear"
    repeats: int = 0

    def check(self) -> None:
        """Raise ValueError where a value is out of its range."""
        for name, most in (("scale", 1.0), ("ratio", None)):
            given = getattr(self, name)
            if given is None:
                continue
            if len(given) != 2 or given[0] > given[1]:
                raise ValueError(f"train.{name}={given}: give the smallest and the largest, e.g. [0.5, 1]")
            for end in given:
                check_number(f"train.{name}", end, above=0, high=most)
        if self.aa:
            check_choice("train.aa", self.aa.partition("-")[0], POLICIES)
        check_number("train.color_jitter", self.color_jitter, low=0, null="no jitter")
        check_choice("train.train_interpolation", self.train_interpolation, ("random", *INTERPOLATIONS))
        check_number("train.repeats", self.repeats, low=0)


@dataclass
class DataConfig:
    """Which images, in which shape, how they are split and how they are fed.

    Attributes:
        name: One of `digits`, `fashion_mnist`, `cifar10`, `folder`, `tar`, `hfds`, one of the annotated `coco`, `garment_scenes`,
            `stamp_scenes`, `digit_scenes`, or a source of an installed package.
        root: Folder for downloads and decoded images; relative to the working directory.
        path: The user's own pictures: for `folder` `path/<class>/*.jpg` or `path/{train,val,test}/<class>/*.jpg`; for `tar` and
            `hfds` see docs/data.md; for `coco` the folder that the files and folders named below are relative to.
        download: Whether missing data may be fetched.
        image_size: Height and width in pixels; None is the usual one (digits 16, fashion_mnist 28, cifar10 32, garment_scenes and
            stamp_scenes 128, digit_scenes 64). Of `coco` the shorter side that a detector resizes pictures to.
        channels: 1 or 3; None is the images' own number (3 for the user's own).
        train_size: Training images: how many, or, below 1, which share of the images outside of official parts; None
            takes all that remain.
        val_size: Validation images, on which studies choose: how many, or which share of the official validation part, or
            of the images where there is none; None takes that part whole, or a fifth of the images.
        test_size: Test images, likewise.
        probe_size: How many images each trial keeps the network's outputs of, in `samples.npz`: of validation, and, where that
            has fewer, of training images that are left over; in the final phase all test images beside. 0 keeps none.
        split_seed: Fixes the three parts, whatever a trial's own seed is.
        flip: Mirror half of the training images, left to right: true draws anew in each epoch; "alternate" draws
            once for an image, which is then mirrored in every second epoch (Jordan 2024, arXiv 2404.00498, section 3.6).
        crop_padding: Random crop of training images after zero padding by so many pixels.
        batch_size: Training batch; the last incomplete one of an epoch is dropped.
        eval_batch_size: Batch for validation and test.
        in_memory_mb: Up to so many mebibytes of 8-bit pixels the pictures of a folder are decoded once, to `image_size`, and kept
            in memory; beyond, and where the recipe needs more than flip and crops, they are decoded each time they are used.
        workers: Processes that decode them, at most one a core; 0 decodes in the trial's own. Of no effect on the result.
        crop_pct: Share of the shorter side that evaluation sees of a picture decoded on the way; None is the backbone's in timm.
        interpolation: By which such a picture is resized in evaluation; likewise.
        input_key, target_key: Columns of pictures and labels of `hfds`.
        train, val, test: Annotation files of `coco`. Where there is none for val or test, `val_size` and `test_size` are drawn out of
            the training pictures.
        train_images, val_images, test_images: The folders of their pictures; None is `path` itself.
        empty_boxes: Whether `coco` refuses a file in which an object has a box of no area, or leaves such objects out of training
            ("skip"), as two of COCO's train2017 need. The judge has them in either case.
        backgrounds: Photographs of `garment_scenes` and `stamp_scenes`: the two that come with scikit-learn, or 23 of Debian
            packages, which are fetched ("packages").
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
    probe_size: int = 0
    split_seed: int = 0
    flip: bool | str = False
    crop_padding: int = 0
    batch_size: int = 128
    eval_batch_size: int = 512
    in_memory_mb: int = 1024
    workers: int = 4
    crop_pct: float | None = None
    interpolation: str | None = None
    input_key: str = "image"
    target_key: str = "label"
    train: str | None = None
    val: str | None = None
    test: str | None = None
    train_images: str | None = None
    val_images: str | None = None
    test_images: str | None = None
    empty_boxes: str = "refuse"
    backgrounds: str = "sklearn"

    def __post_init__(self) -> None:
        if self.name in RENAMED:
            log.warning("data.name=%s is called %s now.", self.name, RENAMED[self.name])
            self.name = RENAMED[self.name]

    @property
    def mirrors(self) -> bool:
        """Whether half of the training images are mirrored."""
        return str(self.flip).lower() != "false"

    def check(self) -> None:
        """Refuse what cannot work, before anything is fetched.

        Raises:
            ValueError: For an unknown name (with the near matches) or a value out of its range; says what is allowed.
        """
        names = source_names()
        if self.name.partition("/")[0] in UNPAIRED:
            raise ValueError(
                f"data.name={self.name} is not taken: timm's readers of WebDataset, TFDS and streamed Hugging Face data order "
                "pictures by worker, so the arms of a study would not see the same batches. Take folder, tar or hfds."
            )
        if self.name not in names:
            raise ValueError(
                f"data.name={self.name!r} is unknown. Choose one of {', '.join(names)}{meant(self.name, names)}"
            )
        takes_path = source_of(self.name).takes_path
        if takes_path and not self.path:
            raise ValueError(f"data.name={self.name} needs data.path, which holds your pictures; see docs/data.md.")
        if self.name in SOURCES and not takes_path and self.path is not None:
            raise ValueError(
                f"data.path={self.path} is of folder, tar, hfds and coco, and data.name={self.name}. Leave one of them out."
            )
        self._check_annotated()
        if Path(self.root).exists() and not Path(self.root).is_dir():
            raise ValueError(f"data.root={self.root} is a file. Give the folder for downloads and decoded images.")
        if self.channels not in (None, 1, 3):
            raise ValueError(
                f"data.channels={self.channels} is not allowed. Choose 1 (grey), 3 (colour) or null (own)."
            )
        if not 0 <= self.split_seed < 2**32:
            raise ValueError(
                f"data.split_seed={self.split_seed} is not allowed. Choose a number from 0 to {2**32 - 1}."
            )
        for key in ("train_size", "val_size", "test_size"):
            size = getattr(self, key)
            if isinstance(size, float) and not 0 < size < 1:
                raise ValueError(
                    f"data.{key}={size} is not allowed. A whole number counts images, a number between 0 and 1 is a share of "
                    "them."
                )
        for key in ("image_size", "train_size", "val_size", "test_size", "batch_size", "eval_batch_size"):
            value = getattr(self, key)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"data.{key}={value} is not allowed. It must be at least 1.")
        check_choice("data.flip", str(self.flip).lower(), ("false", "true", ALTERNATE))
        check_number("data.probe_size", self.probe_size, low=0)
        check_number("data.in_memory_mb", self.in_memory_mb, low=0)
        check_number("data.workers", self.workers, low=0)
        check_number("data.crop_pct", self.crop_pct, above=0, high=1, null="the backbone's")
        if self.interpolation is not None:
            check_choice("data.interpolation", self.interpolation, INTERPOLATIONS)
        if not 0 <= self.crop_padding < image_size(self):
            raise ValueError(
                f"data.crop_padding={self.crop_padding} is not allowed. It must be at least 0 and below "
                f"the image size, {image_size(self)} pixels."
            )

    def _check_annotated(self) -> None:
        """Keys of annotated sources, and keys that they do not have."""
        source = source_of(self.name)
        check_choice("data.empty_boxes", self.empty_boxes, EMPTY_BOXES)
        check_choice("data.backgrounds", self.backgrounds, BACKGROUNDS)
        for owners, keys in (
            (("coco",), (*COCO_KEYS, "empty_boxes")),
            (("garment_scenes", "stamp_scenes"), ("backgrounds",)),
        ):
            for key in keys:
                if self.name not in owners and getattr(self, key) != getattr(DataConfig, key):
                    raise ValueError(
                        f"data.{key}={getattr(self, key)} is of {' and '.join(owners)}, and data.name={self.name}. Leave it out."
                    )
        if self.name == "coco" and not self.train:
            raise ValueError(
                "data.name=coco needs data.train, the annotation file of the training pictures; see docs/data.md."
            )
        for part in ("val", "test"):
            if getattr(self, f"{part}_images") and not getattr(self, part):
                raise ValueError(
                    f"data.{part}_images is given without data.{part}, the annotation file of those pictures."
                )
        if not source.annotated:
            return
        if self.crop_padding or self.channels == 1 or self.probe_size:
            raise ValueError(
                f"data.name={self.name} has pictures in colour with objects in them, which are mirrored and not cropped, and of which "
                "no outputs are kept one by one: leave out data.crop_padding, data.channels and data.probe_size."
            )
        for key in ("train_size", "val_size", "test_size"):
            if source.makes and isinstance(getattr(self, key), float):
                raise ValueError(f"data.{key}={getattr(self, key)}: {self.name} are made; say how many.")


def image_size(config: DataConfig) -> int:
    """The height and width in pixels that the network will see.

    Raises:
        ValueError: If the user's own pictures or those of an installed package come without an image_size.
    """
    size = config.image_size or source_of(config.name).image_size
    if size is None:
        raise ValueError(
            f"data.name={config.name} needs data.image_size, as photographs differ in size. "
            "Set it, e.g. data.image_size=64."
        )
    return size


def channels(config: DataConfig) -> int:
    """The number of channels, 1 or 3, that the network will see."""
    return config.channels or source_of(config.name).channels
