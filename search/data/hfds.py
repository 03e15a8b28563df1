"""A Hugging Face data set on this disk, map-style, through timm's reader: `data=hfds`."""

from __future__ import annotations

import functools
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import xvol  # noqa: F401  # before timm, where torch is a CPU build: see xvol/timm_hook.py

# isort: split
from timm.data import create_dataset

from search.data.cache import open_picture
from search.data.config import DataConfig, channels
from search.data.images import MODES, PictureSet
from search.data.splits import joined

NAMES = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}


def load(config: DataConfig) -> PictureSet:
    """The data set in the folder `data.path`, as `save_to_disk` or files of Parquet leave it; kept as Arrow below `data.root`.

    Raises:
        ValueError: the package is not installed, there is no such data set, or it has not the columns.
    """
    try:
        import datasets  # an extra: who reads no such data set has not to install it
    except ImportError:
        raise ValueError("data.name=hfds needs the package datasets: pip install 'xvol[hfds]'") from None
    assert config.path is not None  # DataConfig.check has seen to it
    path = Path(config.path).expanduser().resolve()
    if not path.is_dir():
        raise ValueError(f"data.path={path} is not a folder. It should hold a data set of Hugging Face's `datasets`.")
    try:
        there = datasets.get_dataset_split_names(str(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"data.path={path} holds no data set that `datasets` can read ({error}).") from error
    splits = {part: name for part, names in NAMES.items() for name in names if name in there}
    if "train" not in splits:
        raise ValueError(f"data.path={path} has the splits {', '.join(there)}, and none that is called train.")
    readers = [_reader(path, split, config) for split in splits.values()]
    parts = {part: _labels(reader, config) for part, reader in zip(splits, readers, strict=True)}
    facts = [[len(reader), str(reader.dataset.features), _files(reader)] for reader in readers]
    ends = list(accumulate(map(len, readers)))
    return PictureSet.make(
        functools.partial(_open, readers, ends, MODES[channels(config)]),
        joined(parts, str(path)),
        f"{ends[-1]} pictures of the data set {path.name}",
        [facts, [zlib.crc32(labels.tobytes()) for _, labels in parts.values()]],
    )


def _reader(path: Path, split: str, config: DataConfig) -> Any:
    cache = Path(config.root).expanduser() / "hfds"
    keys: dict[str, Any] = {"input_key": config.input_key, "target_key": config.target_key}
    try:
        reader = create_dataset(f"hfds/{path}", root=str(cache), split=split, **keys).reader
        reader[0][0].close()
    except (AssertionError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}, split {split}, cannot be read ({type(error).__name__}: {error}). data.input_key={config.input_key} must "
            f"be its column of pictures, data.target_key={config.target_key} that of class labels."
        ) from error
    return reader


def _labels(reader: Any, config: DataConfig) -> tuple[list[str], np.ndarray]:
    """Class names and labels of a split; read as one column, without the pictures."""
    names = sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__)
    if not names:
        raise ValueError(
            f"data.target_key={config.target_key} is no column of class labels in the data set. Make it one with "
            f"`class_encode_column('{config.target_key}')`."
        )
    labels = np.asarray(reader.dataset.with_format("numpy")[config.target_key][:], dtype=np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
        raise ValueError(f"data.target_key={config.target_key}: split {reader.split} has pictures without a label.")
    return names, labels


def _files(reader: Any) -> list[tuple[str, int]]:
    """Names and sizes of the Arrow files behind a split."""
    paths = [Path(file["filename"]) for file in reader.dataset.cache_files]
    return [(path.name, path.stat().st_size) for path in paths]


def _open(readers: Sequence[Any], ends: Sequence[int], mode: str, index: int) -> Image.Image:
    part = bisect_right(ends, index)
    number = index - (ends[part - 1] if part else 0)
    name = f"picture {number} of the split {readers[part].split}"
    try:
        file, _ = readers[part][number]
    except (OSError, AssertionError) as error:
        raise ValueError(f"{name} cannot be found ({error}). Leave it out of the data set.") from error
    with file:
        return open_picture(file, mode, name)
