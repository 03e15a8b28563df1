"""The user's own pictures, in a folder for each class: kept in memory where they fit into it, decoded on the way otherwise."""

import functools
import hashlib
import logging
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from search.data.cache import UNREADABLE, Decoded, cached, open_picture
from search.data.config import DataConfig, channels, image_size
from search.data.images import MODES, ImageSet, PictureSet
from search.data.splits import PARTS, Labelled, split_labels
from search.slot import give_way

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
NAMED = 5  # broken pictures; the rest is counted


class Files:
    """Files below a folder, as one string of bytes: 70 MB for the 1.28 million of ImageNet, where paths would take 500."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names, self._ends = bytearray(), array("q", [0])

    def add(self, name: str) -> None:
        """Add the file of that name, relative to the folder."""
        self._names += os.fsencode(name)
        self._ends.append(len(self._names))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def name(self, index: int) -> str:
        """Of a file, relative to the folder."""
        return os.fsdecode(bytes(self._names[self._ends[index] : self._ends[index + 1]]))

    def digest(self, sizes: Iterable[int]) -> str:
        """Sixteen hexadecimal digits over names and sizes of all, in their order."""
        found = hashlib.blake2b(digest_size=8)
        for index, size in enumerate(sizes):
            found.update(os.fsencode(f"{self.name(index)}\n{size}\n"))
        return found.hexdigest()

    def __getitem__(self, index: int) -> Path:
        return self.folder / self.name(index)

    def __iter__(self) -> Iterator[Path]:
        return map(self.__getitem__, range(len(self)))


class Listing(NamedTuple):
    """The picture files of a folder, and their labels and parts in the same order."""

    files: Files
    labelled: Labelled


def load(config: DataConfig) -> ImageSet | PictureSet:
    """The pictures in the folder `data.path`; parts that cannot be had are refused before anything is decoded."""
    assert config.path is not None  # DataConfig.check has seen to it
    listing = list_pictures(Path(config.path).expanduser())
    split_labels(listing.labelled, config)
    size, number = image_size(config), channels(config)
    if len(listing.files) * number * size**2 > config.in_memory_mb * 2**20:
        return stream_pictures(listing, number)
    return read_pictures(Path(config.root).expanduser(), size, number, listing)


def stream_pictures(listing: Listing, channels: int) -> PictureSet:
    """The pictures of a listing, to be decoded on the way.

    Raises:
        ValueError: a file cannot be looked at, or the first one read.
    """
    files, labelled = listing
    source = f"{len(files)} pictures in the folder {files.folder.name}"
    return PictureSet.make(
        functools.partial(_open, files, MODES[channels]), labelled, source, files.digest(_sizes(files))
    )


def _open(files: Files, mode: str, index: int) -> Image.Image:
    return open_picture(f"{files.folder}/{files.name(index)}", mode)


def _sizes(files: Files) -> Iterator[int]:
    folder = str(files.folder)  # not a path: for a million files it takes half of the time
    for index in range(len(files)):
        try:
            yield os.stat(f"{folder}/{files.name(index)}").st_size
        except OSError as error:  # a link to nowhere
            _refuse(error)


def read_pictures(root: Path, size: int, channels: int, listing: Listing) -> ImageSet:
    """Read the pictures of a listing: shorter side to `size`, then the centre square.

    Args:
        root: Decoded images are kept under `root/image_folder`, under a name that changes with the pictures: with the
            name, the size and the times of change of any file. A file that was written in place within the same tick of
            the file system's clock (4 ms on Linux) is taken for the old one.
        size: Height and width of an image in pixels.
        channels: 1 or 3.
        listing: The folder's.

    Raises:
        ValueError: If a picture cannot be read.
    """
    folder = listing.files.folder
    place = root / "image_folder" / f"{folder.resolve().name}-{_fingerprint(listing, size, channels)}"

    decoded = cached(place, lambda _: _decode(listing, size, channels))
    return ImageSet(
        images=torch.from_numpy(decoded.images),
        labels=torch.from_numpy(decoded.labels),
        classes=listing.labelled.classes,
        source=decoded.source,
        crc32=decoded.crc32,
        official_val=listing.labelled.official_val,
        official_test=listing.labelled.official_test,
    )


def list_pictures(folder: Path) -> Listing:
    """Find the classes, the official parts and the picture files, sorted by name.

    Args:
        folder: `folder/<class>/*.png` or `folder/{train,val,test}/<class>/*.png`. With `train` and one other part,
            that part is the official test set.

    Raises:
        ValueError: If there are no pictures, fewer than two classes, an empty class, or a class unknown to `train`.
    """
    if not folder.is_dir():
        raise ValueError(f"data.path={folder} is not a folder. It should hold a folder of pictures for each class.")
    parts = [name for name in PARTS if (folder / name).is_dir()]
    if "train" not in parts or len(parts) == 1:
        parts = ["."]
    classes = _subfolders(folder / parts[0])
    if len(classes) < 2:
        raise ValueError(
            f"{folder / parts[0]} holds {len(classes)} class folders ({', '.join(classes) or 'none'}); at least 2 are "
            "needed: <class>/*.png or {train,val,test}/<class>/*.png."
        )
    files, labels = Files(folder), array("q")
    counts: dict[str, int] = {}
    for part in parts:
        strange = sorted(set(_subfolders(folder / part)) - set(classes))
        if strange:
            raise ValueError(f"{folder / part} has classes that {parts[0]} has not: {', '.join(strange)}.")
        before = len(files)
        for label, name in enumerate(classes):
            place = folder / part / name
            found = _pictures(folder, place) if place.is_dir() else []
            if part == parts[0] and not found:
                raise ValueError(
                    f"{folder / part / name} holds no pictures ({', '.join(SUFFIXES)}). Fill it or remove it."
                )
            for file in found:
                files.add(file)
            labels.extend([label] * len(found))
        if len(files) == before:
            raise ValueError(f"{folder / part} holds no pictures ({', '.join(SUFFIXES)}). Fill it or remove it.")
        counts[part] = len(files) - before
    return Listing(files, Labelled.of_parts(np.array(labels, dtype=np.int64), tuple(classes), counts))


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _pictures(folder: Path, place: Path) -> list[str]:
    """Picture files at any depth of `place`, relative to `folder`; links followed, a folder that links to itself once.

    Raises:
        ValueError: If a folder or a file cannot be looked at.
    """
    found: list[str] = []
    seen: set[str] = set()
    for where, below, names in os.walk(place, followlinks=True, onerror=_refuse):
        if (real := os.path.realpath(where)) in seen:
            below.clear()
            continue
        seen.add(real)
        inside = os.path.relpath(where, folder)
        found += [os.path.join(inside, name) for name in names if name.lower().endswith(SUFFIXES) and name[0] != "."]
    return sorted(found, key=lambda name: name.split(os.sep))


def _refuse(error: OSError) -> None:
    raise ValueError(f"{error.filename} cannot be read ({error.strerror}). Mend it or remove it.") from None


def _fingerprint(listing: Listing, size: int, channels: int) -> str:
    folder = listing.files.folder
    digest = hashlib.sha256(f"{size} {channels} {folder.resolve()}".encode())
    for file in listing.files:
        try:
            status = file.stat()
        except OSError as error:  # a link to nowhere
            _refuse(error)
        digest.update(
            f"\n{file.relative_to(folder)} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}".encode()
        )
    return digest.hexdigest()[:12]


def _decode(listing: Listing, size: int, channels: int) -> Decoded:
    folder, files = listing.files.folder, list(listing.files)
    refuse_unreadable(files)
    log.info("Decoding %d pictures of %s to %dx%d.", len(files), folder, size, size)
    images = np.empty((len(files), channels, size, size), dtype=np.uint8)
    for image, file in zip(images, files, strict=True):
        square = np.asarray(_centre_square(open_picture(file, MODES[channels]), size))
        image[:] = square.reshape(size, size, channels).transpose(2, 0, 1)
        give_way()
    return Decoded(images, listing.labelled.labels, f"{len(files)} pictures in the folder {folder.name}")


def refuse_unreadable(paths: Sequence[Path]) -> None:
    """Look at the head of each file, which is quick, so that all that are no pictures are told before any is decoded."""
    broken = []
    for path in paths:
        try:
            with Image.open(path):
                pass
        except UNREADABLE:
            broken.append(str(path))
    if broken:
        more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        raise ValueError(
            f"{len(broken)} of {len(paths)} files cannot be read as pictures: {', '.join(broken[:NAMED])}{more}. Replace or "
            "delete them."
        )


def _centre_square(picture: Image.Image, size: int) -> Image.Image:
    """Shorter side to `size`, then crop: done in one resampling from the central square of the original."""
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return picture.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
