"""What was read of a large study, kept in its folder, so that the next table reads only what has changed.

The file `.table_cache` holds rows, not truth: `runs/` stays that. A row is taken from it only while its `result.json`
has the same time stamps (mtime and ctime), size and inode as when it was read, and a folder's list of names only while the
folder has the same time stamps. What was younger than two seconds when it was read is read again, because a second
change can fall on the same tick of the clock. A torn, foreign or older file is passed over: a checksum guards it, and it
carries a digest of the code that made its rows. It is written to a temporary name and renamed, so that readers and
writers at the same time see a whole file. Deleting it costs one slow load.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from search.ledger.files import write_atomic
from search.ledger.paths import NO_TRIALS_INSIDE
from search.ledger.result import RESULT_FILE

SETTLE_NS = 2_000_000_000  # what changed later than this before it was read may change again under the same time stamp


class Folder(NamedTuple):
    """One folder below a study.

    Attributes:
        place: path relative to the study's folder, "" for itself.
        changed: when its list of names last changed, nanoseconds: (mtime, ctime); (0, 0) where that may not be trusted.
        inside: names of the folders in it that may hold trials, sorted.
        finished: it holds a result.
        started: Hydra began a run in it.
    """

    place: str
    changed: tuple[int, int]
    inside: tuple[str, ...]
    finished: bool
    started: bool


def scan(root: str, known: Mapping[str, Folder], unreadable: list[str]) -> list[Folder]:
    """List `root` and every folder below it that may hold trials, parents first, names in order.

    Args:
        root: folder of the study.
        known: what an earlier call returned, by place.
        unreadable: folders that cannot be listed are named here.
    """
    found = []
    waiting = [""]
    while waiting:
        place = waiting.pop()
        path = os.path.join(root, place) if place else root
        try:
            status = os.stat(path)
            changed = (status.st_mtime_ns, status.st_ctime_ns)
            folder = known.get(place)
            if folder is None or folder.changed != changed:
                folder = listed(path, place, changed)
        except OSError as error:
            unreadable.append(f"{error.filename}: {error.strerror}")
            continue
        found.append(folder)
        waiting += [f"{place}/{name}" if place else name for name in reversed(folder.inside)]
    return found


def listed(path: str, place: str, changed: tuple[int, int]) -> Folder:
    """Read the names in one folder."""
    finished = started = False
    inside = []
    now = time.time_ns()
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name == RESULT_FILE:
                finished = not entry.is_dir()
            elif name == ".hydra":
                started = place != "" and entry.is_dir()
            elif name not in NO_TRIALS_INSIDE and entry.is_dir(follow_symlinks=False):
                inside.append(name)
    trusted = changed if now - max(changed) > SETTLE_NS else (0, 0)
    return Folder(place, trusted, tuple(sorted(inside)), finished, started)


log = logging.getLogger(__name__)
CACHE_FILE = ".table_cache"
CACHE_FROM = 500  # trials; fewer are read in a quarter of a second, and need no file
MAGIC = b"xvol-table-cache"
MADE_BY = (
    "cache.py",
    "rows.py",
    "load.py",
    "../../ledger/result.py",
    "../../ledger/metric.py",
    "../../ledger/paths.py",
)

Key = tuple[int, ...]


@dataclass
class Cache:
    """What an earlier load saw.

    Attributes:
        folders: every folder below the study, by place; see `Folder`.
        rows: for each trial with a result, by place: the file's key when it was read, and its row in `frame`.
        frame: the rows, with a column `place`.
    """

    folders: dict[str, Folder] = field(default_factory=dict)
    rows: dict[str, tuple[Key, int]] = field(default_factory=dict)
    frame: pd.DataFrame = field(default_factory=pd.DataFrame)


def file_key(path: str) -> Key | None:
    """(mtime, ctime, size, inode) of a file; None where it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def settled(key: Key) -> bool:
    """Tell whether a file of this key is old enough that a further change must change the key."""
    return time.time_ns() - max(key[:2]) > SETTLE_NS


@cache
def made_by() -> str:
    """Digest of the code that makes the rows: other code may make other rows of the same files."""
    here = Path(__file__).parent
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in MADE_BY)).hexdigest()


def read_cache(root: Path) -> Cache:
    """Read the cache of a study; an empty one where there is none that can be used."""
    try:
        content = (root / CACHE_FILE).read_bytes()
    except OSError:
        return Cache()
    head, _, body = content.partition(b"\n")
    if head != header(body):
        log.debug("%s is torn or was made by another version: passed over", root / CACHE_FILE)
        return Cache()
    import pyarrow as pa  # here: 0.1 s that a study without a cache does not need

    reader = pa.BufferReader(body)
    with pa.ipc.open_stream(reader) as stream:
        listing = stream.read_all().to_pydict()
    with pa.ipc.open_stream(reader) as stream:
        table = stream.read_all()
    types: dict[Any, Any] = {
        pa.string(): pd.StringDtype(),
        pa.large_string(): pd.StringDtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.float64(): pd.Float64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }
    found = Cache(frame=table.to_pandas(types_mapper=types.get))
    names = ("place", "mtime", "ctime", "inside", "finished", "started")
    for place, mtime, ctime, inside, *flags in zip(*(listing[name] for name in names), strict=True):
        found.folders[place] = Folder(place, (mtime, ctime), tuple(json.loads(inside)) if inside else (), *flags)
    names = ("place", "file_mtime", "file_ctime", "size", "inode", "row")
    for place, *key, row in zip(*(listing[name] for name in names), strict=True):
        if row is not None:
            found.rows[place] = (tuple(key), row)
    return found


def write_cache(root: Path, folders: list[Folder], keys: dict[str, Key], frame: pd.DataFrame) -> None:
    """Write the cache of a study; where its folder cannot be written to, there is none.

    Args:
        root: folder of the study.
        folders: what `scan` returned.
        keys: keys of the results whose rows may be kept, by place.
        frame: rows with a column `place`; those whose place is not in `keys` are left out.
    """
    import pyarrow as pa  # here: 0.1 s that a study without a cache does not need

    frame = frame[frame["place"].isin(list(keys))].reset_index(drop=True)
    row_of = {place: row for row, place in enumerate(frame["place"])}
    listing: dict[str, list[Any]] = {
        "place": [folder.place for folder in folders],
        "mtime": [folder.changed[0] for folder in folders],
        "ctime": [folder.changed[1] for folder in folders],
        "inside": [json.dumps(folder.inside) if folder.inside else "" for folder in folders],
        "finished": [folder.finished for folder in folders],
        "started": [folder.started for folder in folders],
        "row": [row_of.get(folder.place) for folder in folders],
    }
    for position, name in enumerate(("file_mtime", "file_ctime", "size", "inode")):
        listing[name] = [keys[place][position] if place in keys else None for place in listing["place"]]
    sink = pa.BufferOutputStream()
    # An inode of some file systems uses all 64 bits; the fields that may be None are typed, so that all-None columns work.
    wide = {"inode": pa.uint64(), **dict.fromkeys(("file_mtime", "file_ctime", "size", "row"), pa.int64())}
    arrays = {name: pa.array(values, type=wide.get(name)) for name, values in listing.items()}
    for table in (pa.table(arrays), pa.Table.from_pandas(frame, preserve_index=False)):
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    body = sink.getvalue().to_pybytes()
    content = header(body) + b"\n" + body
    try:
        write_atomic(root / CACHE_FILE, content)
    except OSError as error:
        log.debug("no cache was written: %s", error)


def header(body: bytes) -> bytes:
    """First line of the file: what it is, who made it, and a checksum that a torn file fails."""
    return b" ".join([MAGIC, made_by().encode(), str(len(body)).encode(), b"%08x" % zlib.crc32(body)])
