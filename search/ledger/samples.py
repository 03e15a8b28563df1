"""What a trained network put out for each image of its probe set: one compact file beside the result."""

from __future__ import annotations

import functools
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.ledger.files import write_whole
from search.ledger.study_files import NO_TRIALS_INSIDE

SAMPLES_FILE = "samples.npz"
NAMES = ("index", "part", "target", "logits")


@dataclass(frozen=True, eq=False)
class Samples:
    """The images of one trial's probe set, in an order that is the same for all trials of the same data settings.

    Attributes:
        run: folder of the trial; its `result.json` says which arm and seed it is, and how it ended.
        index: int64 (N,), of each image in its data set.
        part: str (N,): "val", "train" (of images that no arm trained on) or "test", which only the final phase has.
        target: int64 (N,), the label.
        logits: float16 (N, K).
    """

    run: Path
    index: np.ndarray
    part: np.ndarray
    target: np.ndarray
    logits: np.ndarray


def write_samples(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays of one row an image to `folder/samples.npz`, whole or not at all; the same arrays make the same bytes."""
    path = folder / SAMPLES_FILE
    write_arrays(path, arrays)
    return path


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write plain arrays to one compressed file, whole or not at all."""
    write_whole(path, functools.partial(_save, arrays))


def _save(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    plain: dict[str, Any] = dict(arrays)
    np.savez_compressed(path, allow_pickle=False, **plain)


def read_samples(run: Path) -> Samples:
    """Read what the trial in the folder `run` kept; its checksums are compared, and nothing is unpickled.

    Raises:
        ValueError: there is no such file, it is damaged, or it holds something else than logits.
    """
    path = run / SAMPLES_FILE
    try:
        # opened here: numpy closes no torn file of its own
        with path.open("rb") as file, np.load(file, allow_pickle=False) as packed:
            samples = Samples(run, *(packed[name] for name in NAMES))
    except FileNotFoundError:
        raise ValueError(
            f"{path} is not there: the trial was not asked to keep it (data.probe_size), or failed"
        ) from None
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}); train the trial again") from error
    if samples.logits.ndim != 2 or len({len(getattr(samples, name)) for name in NAMES}) != 1:
        raise ValueError(f"{path} holds arrays that do not fit each other; train the trial again")
    return samples


def samples_below(folder: Path) -> Iterator[Samples]:
    """What each trial below a study's folder kept, sorted by folder; those that kept nothing are passed over.

    Raises:
        ValueError: a file is damaged; names it.
    """
    for path in sorted(folder.rglob(SAMPLES_FILE)):
        if NO_TRIALS_INSIDE.isdisjoint(path.relative_to(folder).parts):
            yield read_samples(path.parent)
