"""Fashion-MNIST: from files at hand, torchvision's downloader or the Debian package dataset-fashion-mnist."""

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from search.data.cache import Decoded
from search.data.config import DataConfig
from search.data.fetch import Published, Way, registry_download, torchvision_download
from search.data.images import ImageSet

SITE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FILES = {  # with the checksums that torchvision has of them
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
PACKAGE = "dataset-fashion-mnist"
PACKAGE_FOLDER = Path("usr/share/datasets/fashion-mnist")
UNSIGNED_BYTES = 8  # the type code in the third byte of an idx file


class FashionMnist(Published):
    """70,000 images of shape (1, 28, 28)."""

    def at_hand(self, folder: Path, scratch: Path) -> Decoded | None:
        """The four files as published."""
        there = any((folder / name).exists() for name in FILES)
        return self.read_files(folder, f"files in {folder}") if there else None

    def ways(self) -> Mapping[str, Way]:
        """The published files; for networks that reach package registries alone, a Debian package of them."""

        def torchvision(scratch: Path) -> Decoded:
            for name, md5 in FILES.items():
                torchvision_download(SITE + name, scratch, md5)
            return self.read_files(scratch, "torchvision's downloader")

        def debian(scratch: Path) -> Decoded:
            package = registry_download(["apt-get", "download", PACKAGE], scratch, "*.deb")
            registry_download(["dpkg-deb", "-x", str(package), "."], scratch, str(PACKAGE_FOLDER))
            source = f"Debian package {PACKAGE} {package.name.split('_')[1]}"
            return self.read_files(scratch / PACKAGE_FOLDER, source)

        return {"torchvision's downloader": torchvision, f"apt-get download {PACKAGE}": debian}

    def read_files(self, folder: Path, source: str) -> Decoded:
        """Read the four idx files.

        Raises:
            ValueError: one is absent, damaged or not whole; it is named.
        """
        train_images, train_labels, test_images, test_labels = (read_idx(folder / name) for name in FILES)
        images = np.concatenate([train_images, test_images])[:, None]  # N, H, W -> N, 1, H, W
        return self.whole(images, np.concatenate([train_labels, test_labels]), source, folder)


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped idx file: two zero bytes, a type, the number of axes, their lengths as big-endian int32, data.

    Returns:
        uint8 array with the axes that the file names.

    Raises:
        ValueError: the file is absent, is not gzipped idx of bytes, or holds more or less data than it says.
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


FASHION_MNIST = FashionMnist(
    name="fashion_mnist",
    title="Fashion-MNIST",
    shape=(1, 28, 28),
    classes=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    train_per_class=6000,
    test_per_class=1000,
    mean=(0.2860,),
    std=(0.3530,),
    put=f"{', '.join(FILES)} (if apt-get does not know the package, run `apt-get update`)",
)


def load(config: DataConfig) -> ImageSet:
    """All 70,000 images; see `Published.load`."""
    return FASHION_MNIST.load(config)
