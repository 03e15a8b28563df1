"""Fashion-MNIST: from files at hand, torchvision's downloader or the Debian package dataset-fashion-mnist."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from search.data.cache import Decoded, cached
from search.data.expected import Expected
from search.data.fetch import (
    FetchFailedError,
    apt_download,
    first_that_works,
    take_members,
    torchvision_datasets,
    torchvision_download,
)
from search.data.image_set import ImageSet

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
EXPECTED = Expected(shape=(1, 28, 28), classes=CLASSES, train_per_class=6000, test_per_class=1000)
MEAN = (0.2860,)
STD = (0.3530,)

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
PACKAGE = "dataset-fashion-mnist"
PACKAGE_FOLDER = "usr/share/datasets/fashion-mnist"
UNSIGNED_BYTES = 8  # the type code in the third byte of an idx file


def load(root: Path, download: bool) -> ImageSet:
    """All 70,000 images of shape (1, 28, 28), the 10,000 of the official test set last.

    Raises:
        ValueError: If the files at hand are damaged, or there are none and no way to fetch them works.
    """
    folder = root / "fashion_mnist"
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
    if any((folder / name).exists() for name in FILES):
        return read_files(folder, f"files in {folder}")
    mend = (
        f"Put {', '.join(FILES)} into {folder.resolve()} and start again; if apt-get does not know the package, "
        "run `apt-get update`; or take data=digits, which needs no download."
    )
    if not download:
        raise ValueError(f"data.name=fashion_mnist is not in {folder.resolve()}, and data.download=false. {mend}")
    ways = {
        "torchvision's downloader": lambda: _from_torchvision(scratch / "torchvision"),
        f"apt-get download {PACKAGE}": lambda: _from_package(scratch),
    }
    return first_that_works("fashion_mnist", ways, mend)


def _from_torchvision(scratch: Path) -> Decoded:
    published = torchvision_datasets().FashionMNIST
    failures = []
    for mirror in published.mirrors:
        try:
            for name, md5 in published.resources:
                torchvision_download(mirror + name, scratch, md5)
            return read_files(scratch, "torchvision's downloader")
        except FetchFailedError as error:
            failures.append(str(error))
    raise FetchFailedError("; ".join(failures))


def _from_package(scratch: Path) -> Decoded:
    tar = apt_download(PACKAGE, scratch)
    version = next(scratch.glob("*.deb")).name.split("_")[1]
    folder = take_members(tar, [f"{PACKAGE_FOLDER}/{name}" for name in FILES], scratch / "package")
    return read_files(folder, f"Debian package {PACKAGE} {version}")


def read_files(folder: Path, source: str) -> Decoded:
    """Read the four idx files.

    Raises:
        ValueError: If one is absent, damaged or not whole; names it.
    """
    train_images, train_labels, test_images, test_labels = (read_idx(folder / name) for name in FILES)
    images = np.concatenate([train_images, test_images])[:, None]  # N, H, W -> N, 1, H, W
    labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
    decoded = Decoded(images, labels, source)
    try:
        EXPECTED.check(decoded)
    except ValueError as error:
        raise ValueError(f"{folder} does not hold the whole of Fashion-MNIST: {error}.") from error
    return decoded


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped idx file: two zero bytes, a type, the number of axes, their lengths as big-endian int32, data.

    Returns:
        uint8 array with the axes that the file names.

    Raises:
        ValueError: If the file is absent, is not gzipped idx of bytes, or holds more or less data than it says.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing. Put all of {', '.join(FILES)} there, or none.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}). Replace it or delete it.") from error
    axes = content[3] if len(content) > 3 else 0
    start = 4 + 4 * axes
    if content[:3] != bytes([0, 0, UNSIGNED_BYTES]) or not 1 <= axes <= 3 or len(content) < start:
        raise ValueError(f"{path} is not an idx file of unsigned bytes. Replace it or delete it.")
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if len(content) - start != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path} says {shape} and holds {len(content) - start} bytes. Replace it or delete it.")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
