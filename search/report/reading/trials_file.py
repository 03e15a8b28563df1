"""The trials of a study as one file: all that its tables need, so that anybody can make them again without the runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from search.report.reading.columns import COLUMNS, is_extra

__all__ = ["read_trials_file", "shared_trials"]


def shared_trials(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the tidy frame as it may be given away: without the names of the machines."""
    return frame.assign(provenance=frame["provenance"].map(without_host, na_action="ignore").astype("string"))


def without_host(text: str) -> str:
    """Return a provenance without the machine's name."""
    return json.dumps({name: value for name, value in json.loads(text).items() if name != "host"})


def read_trials_file(path: Path) -> pd.DataFrame:
    """Read what `save_tidy` wrote, CSV or Parquet, as `load_study` would have read the study.

    Args:
        path: the file. What a study declares beside its trials (`design.json` and such) is looked for beside the file.

    Raises:
        ValueError: it cannot be read, or is no such file; the message names the columns it lacks.
    """
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path, dtype_backend="numpy_nullable")
        else:
            scores = {name: "Float64" for name in pd.read_csv(path, nrows=0).columns if is_extra(name)}
            types: Any = COLUMNS | scores
            frame = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""])  # an arm may be called NA
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is no file of trials ({' '.join(str(error).split())}); write one with --tidy"
        ) from None
    needed = ("study", "phase", "trial", "status", "arm", "is_baseline", "arch_hash", "recipe_hash", "seed")
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise ValueError(
            f"{path} is no file of trials: it lacks the columns {', '.join(missing)}; give trials.csv of a study's tables, or write "
            "one with --tidy"
        )
    for name, dtype in COLUMNS.items():  # of an earlier version, which did not measure it
        if name not in frame.columns:
            frame[name] = pd.array([pd.NA] * len(frame), dtype=dtype)  # type: ignore[call-overload]
    frame = frame.astype(COLUMNS)
    frame = frame[[*COLUMNS, *(name for name in frame.columns if is_extra(name))]]
    frame.attrs = {"path": str(path.parent), "unreadable": []}
    return frame
