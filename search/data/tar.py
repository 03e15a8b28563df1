"""Pictures in tar files, listed by timm's reader and read from their places in the files: `data=tar`."""

from __future__ import annotations

import functools
import io
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

import xvol  # noqa: F401  # before timm, where torch is a CPU build: see xvol/timm_hook.py

# isort: split
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from search.data.cache import open_picture
from search.data.config import DataConfig, channels
from search.data.folder import Files
from search.data.images import MODES, PictureSet
from search.data.splits import PARTS, joined

LAYOUT = "one tar of <class>/*.jpg, {train,val,test}.tar of that kind, or folders of a tar for each class"


class _Members(NamedTuple):
    """Where pictures lie: member names below their tar, and its number, offset and size, int64 (N, 3)."""

    tars: list[Path]
    names: Files
    places: np.ndarray

    def open(self, mode: str, index: int) -> Image.Image:
        tar, offset, size = self.places[index].tolist()
        # anew each time: an open file would be shared between workers, place and all
        with self.tars[tar].open("rb") as file:
            file.seek(offset)
            return open_picture(io.BytesIO(file.read(size)), mode, str(self.names[index]))


def load(config: DataConfig) -> PictureSet:
    """The pictures in the tar file or files at `data.path`; the first is decoded, so that a wrong kind of file is told at once.

    Raises:
        ValueError: there are none, or they are laid out otherwise.
    """
    assert config.path is not None  # DataConfig.check has seen to it
    path = Path(config.path).expanduser()
    parts: dict[str, tuple[list[str], np.ndarray]] = {}
    members = _Members([], Files(path if path.is_dir() else path.parent), np.empty((0, 3), dtype=np.int64))
    for part, place in _parts(path).items():
        reader = _reader(place)
        names = sorted(reader.class_name_to_idx, key=reader.class_name_to_idx.__getitem__)
        parts[part] = names, np.asarray(reader.targets, dtype=np.int64)
        members = _added(members, reader, place)
    return PictureSet.make(
        functools.partial(_Members.open, members, MODES[channels(config)]),
        joined(parts, str(path)),
        f"{len(members.names)} pictures in {path.name}",
        members.names.digest(members.places[:, 2].tolist()),
    )


def _parts(path: Path) -> dict[str, Path]:
    """The tar, or folder of tars, of each part; "train" alone where there are no parts."""
    found = {part: next((p for p in (path / f"{part}.tar", path / part) if p.exists()), None) for part in PARTS}
    there = {part: place for part, place in found.items() if place is not None}
    if not path.exists():
        raise ValueError(f"data.path={path} is not there. It should be {LAYOUT}.")
    return there if path.is_dir() and "train" in there and len(there) > 1 else {"train": path}


def _reader(place: Path) -> ReaderImageInTar:
    if (place.is_file() and place.suffix != ".tar") or (place.is_dir() and not any(place.glob("*.tar"))):
        raise ValueError(f"{place} holds no .tar, and data.name=tar needs {LAYOUT}.")
    try:
        reader = ReaderImageInTar(str(place))
    except (OSError, ValueError) as error:  # timm unpacks two empty lists where there is no picture
        raise ValueError(
            f"{place} holds no pictures that timm's reader finds ({error}). It should be {LAYOUT}."
        ) from None
    inside = {part for member, *_ in reader.samples for part in PurePosixPath(member.path).parts[:-2] if part in PARTS}
    if len(inside) > 1:
        raise ValueError(
            f"{place} holds the parts {', '.join(sorted(inside))} in one tar, which would be mixed. Give each its tar: "
            "train.tar and val.tar or test.tar, and their folder as data.path."
        )
    return reader


def _added(members: _Members, reader: ReaderImageInTar, place: Path) -> _Members:
    tars, rows = {tar: number for number, tar in enumerate(members.tars)}, []
    for member, parent, child in reader.samples:  # parent: a tar in the folder; child: a tar in that tar
        tar = place / parent if parent else place
        first = member.offset_data + (child.offset_data if child else 0)
        rows.append((tars.setdefault(tar, len(tars)), first, member.size))
        members.names.add(f"{tar.relative_to(members.names.folder)}/{member.path}")
    return _Members(list(tars), members.names, np.concatenate((members.places, np.array(rows, dtype=np.int64))))
