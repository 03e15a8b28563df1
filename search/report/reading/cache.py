"""What was read of a large study, kept in its folder, so that the next table reads only what has changed.

The file `.table_cache` holds rows, not truth: `runs/` stays that. A row is taken from it only while its `result.json` has the same
time stamps (mtime and ctime), size and inode as when it was read. What was younger than two seconds then is read again, because a
second change can fall on the same tick of the clock. A torn, foreign or older file is passed over: a checksum guards it, and it
carries a digest of the code that made its rows. Deleting it costs one slow load.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import time
import zlib
from functools import cache
from pathlib import Path

import pandas as pd

from search.ledger.files import write_atomic

log = logging.getLogger(__name__)
CACHE_FILE = ".table_cache"
CACHE_FROM = 500  # trials; fewer are read in a quarter of a second, and need no file
SETTLE_NS = 2_000_000_000
MAGIC = b"xvol-table-cache"
MADE_BY = ("cache.py", "rows.py", "load.py", *(f"../../ledger/{name}.py" for name in ("result", "metric", "paths")))


def file_key(path: str) -> str | None:
    """What a change of a file changes; "" where another change might not, or nothing is known; None where there is no file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError:
        return ""
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) <= SETTLE_NS:
        return ""
    return f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_size} {status.st_ino}"


@cache
def made_by() -> str:
    """Digest of the code that makes the rows: other code may make other rows of the same files."""
    here = Path(__file__).parent
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in MADE_BY)).hexdigest()


def read_cache(root: Path) -> pd.DataFrame:
    """Read the rows that `write_cache` kept; none where there is no file that can be used."""
    try:
        head, _, body = (root / CACHE_FILE).read_bytes().partition(b"\n")
    except OSError:
        return pd.DataFrame()
    if head != header(body):
        log.debug("%s is torn or was made by another version: passed over", root / CACHE_FILE)
        return pd.DataFrame()
    return pd.read_feather(io.BytesIO(body))


def write_cache(root: Path, frame: pd.DataFrame) -> None:
    """Keep rows, each with its `file_key`; where the folder cannot be written to, none are kept."""
    buffer = io.BytesIO()
    frame.to_feather(buffer, compression="uncompressed")
    body = buffer.getvalue()
    try:
        write_atomic(root / CACHE_FILE, header(body) + b"\n" + body)
    except OSError as error:
        log.debug("no cache was written: %s", error)


def header(body: bytes) -> bytes:
    """First line of the file: what it is, who made it, and a checksum that a torn file fails."""
    return b" ".join([MAGIC, made_by().encode(), str(len(body)).encode(), b"%08x" % zlib.crc32(body)])
