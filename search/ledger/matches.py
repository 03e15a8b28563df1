"""Which detections of a trial's pictures found an object: a compact file beside the result, from which average precision follows."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from search.ledger.samples import write_arrays

FILES = {"val": "matches.npz", "test": "matches_test.npz"}
PREDICTIONS = {"val": "predictions.json", "test": "predictions_test.json"}
"""By split, in a trial's folder; the second in COCO's results format."""
ARRAYS = ("picture", "category", "score", "matched", "ignored", "objects")


@dataclass(frozen=True, eq=False, kw_only=True)
class Matches:
    """The detections of one kind, "box" or "mask", in P pictures of K categories: n of them, by category, picture and falling score, at
    most 100 in each picture and category; matched as COCO does, to objects of every size.

    Attributes:
        pictures: int64 (P,), COCO's ids, ascending. categories: str (K,), names in the order of COCO's ids.
        picture, category: int64 (n,), places in these.
        score: float64 (n,).
        matched, ignored: bool (10, n): at IoU 0.50, 0.55 to 0.95, whether it found an object, and whether it counts neither way.
        objects: int64 (P, K): those that count, so no crowds.
    """

    pictures: np.ndarray
    categories: np.ndarray
    picture: np.ndarray
    category: np.ndarray
    score: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray


def write_matches(path: Path, kinds: Mapping[str, Matches]) -> None:
    """Write what all kinds of one split came to, whole or not at all; the pictures and categories are the same."""
    first = next(iter(kinds.values()))
    arrays = {"pictures": first.pictures, "categories": first.categories}
    for kind, found in kinds.items():
        arrays |= {f"{kind}_{name}": getattr(found, name) for name in ARRAYS}
        for name in ("matched", "ignored"):
            arrays[f"{kind}_{name}"] = np.packbits(getattr(found, name), axis=0)
    write_arrays(path, arrays)


def read_matches(path: Path, kind: str) -> Matches | None:
    """Read the matches of one kind; None where the trial kept none. Nothing is unpickled.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as packed:
            arrays = {name: packed[f"{kind}_{name}"] for name in ARRAYS}
            for name in ("matched", "ignored"):
                arrays[name] = np.unpackbits(arrays[name], axis=0, count=10).astype(bool)
            return Matches(pictures=packed["pictures"], categories=packed["categories"], **arrays)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}); train the trial again") from error
