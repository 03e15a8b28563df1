"""Pictures decoded once: by one process, whole or not at all, kept on disk, and mapped into memory by all others."""

import fcntl
import functools
import json
import logging
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from search.ledger.files import write_atomic, write_whole
from search.slot import idle

log = logging.getLogger(__name__)

FORMAT = 1
ARRAYS = ("images", "labels")
MANIFEST = "manifest.json"
Made = TypeVar("Made")
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class Decoded(NamedTuple):
    """Decoded images in the order of their source.

    Attributes:
        images: uint8 of shape (N, C, H, W).
        labels: int64 of shape (N,).
        source: Where they came from, in words.
        crc32: Checksums of images and labels, where they are known.
    """

    images: np.ndarray
    labels: np.ndarray
    source: str
    crc32: tuple[int, int] | None = None


class UnusableError(Exception):
    """What is kept on disk is absent (an empty message) or damaged."""


def cached(folder: Path, build: Callable[[Path], Decoded]) -> Decoded:
    """Read the decoded images of `folder`, or make them, safely beside other processes that want the same.

    Args:
        folder: holds `decoded/` with two .npy files and a manifest; made if absent.
        build: makes the arrays; may use the scratch folder that it is given.

    Returns:
        Arrays mapped from disk, private to this process when written to.

    Raises:
        ValueError: the folder cannot be written, or from `build`.
    """
    place = folder / "decoded"
    return made(folder, lambda: _read(place), lambda scratch: _write(place, build(scratch)))


def made(folder: Path, read: Callable[[], Made], make: Callable[[Path], None]) -> Made:
    """Read what is kept in `folder`, or make it first, safely beside other processes that want the same.

    Args:
        read: gives what is there; raises `UnusableError` where it is absent or damaged.
        make: puts it there, whole, its last file or folder being that without which `read` finds it absent; may use the scratch folder
            that it is given, which lies on the same disk.

    Raises:
        ValueError: the folder cannot be written, or from `make`.
    """
    with suppress(UnusableError):
        return read()
    with _locked(folder):
        try:
            return read()  # another process made it while this one waited
        except UnusableError as problem:
            if str(problem):
                log.warning("The images in %s are damaged (%s). Making them again.", folder, problem)
        for left_over in folder.glob(".partial-*"):  # of a process that was killed: the lock says it is not at work
            shutil.rmtree(left_over, ignore_errors=True)
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as scratch:
                make(Path(scratch))
        except OSError as error:
            raise ValueError(
                f"The images in {folder} could not be prepared ({error}). See to free space and rights there, or set "
                "data.root to another folder."
            ) from error
    return read()


def _read(place: Path) -> Decoded:
    if not (place / MANIFEST).exists():
        raise UnusableError
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise UnusableError(f"format {manifest['format']}, not {FORMAT}")
        # Copy on write: the pages are shared with other processes, and torch is content that it may write.
        arrays = [np.load(place / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in ARRAYS]
        crc32 = [zlib.crc32(array.data) for array in arrays]
        if dict(zip(ARRAYS, crc32, strict=True)) != manifest["crc32"]:
            raise UnusableError("an array has another checksum than when it was written")
        return Decoded(arrays[0], arrays[1], str(manifest["source"]), (crc32[0], crc32[1]))
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise UnusableError(f"{type(error).__name__}: {error}") from error


def _write(place: Path, decoded: Decoded) -> None:
    """Write each file whole, the manifest that vouches for the others last."""
    place.mkdir(exist_ok=True)
    (place / MANIFEST).unlink(missing_ok=True)
    crc32 = {}
    for name, array in zip(ARRAYS, (decoded.images, decoded.labels), strict=True):
        whole = np.ascontiguousarray(array)
        crc32[name] = zlib.crc32(whole.data)
        write_whole(place / f"{name}.npy", functools.partial(np.save, arr=whole, allow_pickle=False))
    write_atomic(place / MANIFEST, json.dumps({"format": FORMAT, "source": decoded.source, "crc32": crc32}, indent=1))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system frees it even if this process is killed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise ValueError(
            f"The data folder {folder} cannot be written ({error.strerror}). Set data.root to a folder that can."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("Another process is preparing %s. Waiting for it.", folder)
            with idle():
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def open_picture(file: Path | str | IO[bytes], mode: str, name: str = "") -> Image.Image:
    """Decode a whole picture file.

    Args:
        file: PNG, JPEG or whatever else Pillow reads.
        mode: "L" (grey), "RGB" or "RGBA", 8 bits a channel.
        name: what to call it, where it is no path.

    Raises:
        ValueError: If the file is truncated, is no picture, or holds more than 8 bits a channel; names the file.
    """
    name = name or str(file)
    try:
        with Image.open(file) as picture:
            deep = picture.mode.startswith(("I", "F"))
            pixels = None if deep else picture.convert(mode)
    except UNREADABLE as error:
        raise ValueError(
            f"{name} cannot be read as a picture ({error}). It may be truncated: replace it or delete it."
        ) from error
    if pixels is None:
        raise ValueError(f"{name} holds more than 8 bits a channel, which would be cut off. Save it with 8 bits.")
    return pixels
