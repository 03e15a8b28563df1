"""Pictures decoded once: by one process, whole or not at all, kept on disk, and mapped into memory by all others."""

import fcntl
import json
import logging
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from search.slot import idle

log = logging.getLogger(__name__)

FORMAT = 1
ARRAYS = ("images", "labels")
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
NAMED = 5  # broken pictures; the rest is counted


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


class _UnusableError(Exception):
    """The cache is absent (an empty message) or damaged."""


def cached(folder: Path, check: Callable[[Decoded], None], build: Callable[[Path], Decoded]) -> Decoded:
    """Read the decoded images of `folder`, or make them, safely beside other processes that want the same.

    Args:
        folder: Holds `decoded/` with two .npy files and a manifest; made if absent.
        check: Raises ValueError if the arrays are not whole.
        build: Makes the arrays; may use the scratch folder that it is given.

    Returns:
        Arrays mapped from disk, private to this process when written to.

    Raises:
        ValueError: If the folder cannot be written, or from `build` and `check`.
    """
    try:
        return _read(folder, check)
    except _UnusableError:
        pass
    with _locked(folder):
        try:
            return _read(folder, check)  # another process made it while this one waited
        except _UnusableError as problem:
            if str(problem):
                log.warning("The decoded images in %s are damaged (%s). Making them again.", folder, problem)
        _make(folder, check, build)
    return _read(folder, check)


def _make(folder: Path, check: Callable[[Decoded], None], build: Callable[[Path], Decoded]) -> None:
    for left_over in folder.glob(".partial-*"):  # of a process that was killed: the lock says it is not at work
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as scratch:
            decoded = build(Path(scratch))
            check(decoded)
            _write(folder, Path(scratch), decoded)
    except OSError as error:
        raise ValueError(
            f"The images in {folder} could not be prepared ({error}). See to free space and rights there, or set "
            "data.root to another folder."
        ) from error


def _read(folder: Path, check: Callable[[Decoded], None]) -> Decoded:
    place = folder / "decoded"
    if not place.is_dir():
        raise _UnusableError
    try:
        manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise _UnusableError(f"format {manifest['format']}, not {FORMAT}")
        arrays = {}
        for name in ARRAYS:
            # Copy on write: the pages are shared with other processes, and torch is content that it may write.
            arrays[name] = np.load(place / f"{name}.npy", mmap_mode="c", allow_pickle=False)
            if zlib.crc32(arrays[name].data) != manifest["crc32"][name]:
                raise _UnusableError(f"{name}.npy has another checksum than when it was written")
        checked = manifest["crc32"]["images"], manifest["crc32"]["labels"]
        decoded = Decoded(arrays["images"], arrays["labels"], str(manifest["source"]), checked)
        check(decoded)
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise _UnusableError(f"{type(error).__name__}: {error}") from error
    return decoded


def _write(folder: Path, scratch: Path, decoded: Decoded) -> None:
    """Write beside the place, flush to disk, then move into place in one step."""
    new, place = scratch / "decoded", folder / "decoded"
    new.mkdir()
    crc32 = {}
    for name in ARRAYS:
        array = np.ascontiguousarray(getattr(decoded, name))
        crc32[name] = zlib.crc32(array.data)
        with open(new / f"{name}.npy", "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    with open(new / "manifest.json", "w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, "source": decoded.source, "crc32": crc32}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    if place.exists():
        os.rename(place, scratch / "damaged")  # goes with the scratch folder
    os.rename(new, place)


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


def refuse_unreadable(paths: Sequence[Path]) -> None:
    """Look at the head of each file, which is quick, so that all that are no pictures are told before any is decoded.

    Raises:
        ValueError: If a file is empty or no picture; names the first few.
    """
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


def open_picture(path: Path, mode: str) -> Image.Image:
    """Decode a whole picture file.

    Args:
        path: PNG, JPEG or whatever else Pillow reads.
        mode: "L" (grey) or "RGB", 8 bits a channel.

    Raises:
        ValueError: If the file is truncated, is no picture, or holds more than 8 bits a channel; names the file.
    """
    try:
        with Image.open(path) as picture:
            deep = picture.mode.startswith(("I", "F"))
            pixels = None if deep else picture.convert(mode)
    except UNREADABLE as error:
        raise ValueError(
            f"{path} cannot be read as a picture ({error}). It may be truncated: replace it or delete it."
        ) from error
    if pixels is None:
        raise ValueError(f"{path} holds more than 8 bits a channel, which would be cut off. Save it with 8 bits.")
    return pixels
