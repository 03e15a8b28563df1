"""From a study's folder to a data frame: one row for each trial, with fixed columns and dtypes."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from search.ledger.paths import NO_TRIALS_INSIDE, trial_subdir
from search.ledger.result import RESULT_FILE, Phase, read_result

__all__ = ["COLUMNS", "load_study"]

COLUMNS: dict[str, str] = {
    "study": "string",
    "phase": "string",  # search | final | single
    "trial": "Int64",  # number inside the study and phase
    "status": "string",  # ok | pruned | failed | interrupted | infeasible | unfinished (a folder without a result)
    "reason": "string",
    "arm": "string",
    "is_baseline": "boolean",
    "arch_hash": "string",
    "recipe_hash": "string",
    "fingerprint": "string",
    "reused_from": "string",  # relative to the folder that holds the studies
    "attempt": "Int64",
    "resumed_from": "string",  # relative to the study's folder
    "seed": "Int64",
    "backbone": "string",
    "sites": "string",  # names joined by "; "
    "branches": "string",  # names joined by "; "
    "params": "Int64",
    "params_fused": "Int64",
    "macs": "Int64",  # multiply-accumulates of one image
    "macs_fused": "Int64",
    "latency_ms": "Float64",  # one batch of latency_batch images
    "latency_fused_ms": "Float64",
    "latency_batch": "Int64",
    "fuse_error": "Float64",  # largest absolute difference of a logit
    "val_top1": "Float64",  # percent, 0 to 100
    "val_loss": "Float64",  # nats
    "test_top1": "Float64",  # percent, 0 to 100; phase final only
    "test_loss": "Float64",  # nats; phase final only
    "epochs": "Int64",
    "epochs_planned": "Int64",
    "train_seconds": "Float64",
    "peak_memory_mb": "Float64",  # MiB
    "train_memory_mb": "Float64",  # MiB
    "data_source": "string",
    "run_dir": "string",  # relative to the study's folder
    "wandb_id": "string",
    "started_at": "string",  # ISO 8601
    "finished_at": "string",
    "overrides": "string",  # joined by "; "
    "provenance": "string",  # JSON
}
"""Name and pandas dtype of each column of `load_study`; what they mean is said in `TrialResult`.

A study that scored untrained networks has a Float64 column `zero_cost.<name>` for each score after these."""

SCORE = "zero_cost."
PHASES: tuple[Phase, ...] = ("search", "final", "single")
PHASE_OF_FOLDER = {Path(trial_subdir(phase, 0, 0)).parts[0]: phase for phase in PHASES}
PHASE_ORDER = {phase: position for position, phase in enumerate(PHASES)}
REQUIRED = ("study", "trial", "seed")
STATUSES = ("ok", "pruned", "failed", "interrupted", "infeasible")
TYPES: dict[str, tuple[type, ...]] = {"Float64": (int, float), "string": (str,), "boolean": (bool,)}


def load_study(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read every trial below a study's folder.

    A folder in which Hydra started a run (it holds `.hydra/`) but that has no result is a trial that was killed or is
    still running: it becomes a row with status "unfinished". A result that cannot be read stops nothing: it is left
    out and named in `frame.attrs["unreadable"]`.

    Args:
        path: `runs/<study>`, `runs/single`, or the folder of one trial.

    Returns:
        One row for each trial with the columns and dtypes of `COLUMNS`, and its zero-cost scores, sorted by phase
        (search, final, single), trial and seed. `frame.attrs` holds `path` (str) and `unreadable` (a list of messages).

    Raises:
        ValueError: the folder is missing, holds no trial, or holds more than one study; the message names the studies
            that exist beside it.
    """
    root = Path(path)
    if not root.is_dir():
        what = "is a file, not the folder of a study" if root.exists() else "does not exist"
        raise ValueError(f"{root} {what}. {studies_beside(root)}")
    rows: list[dict[str, Any]] = []
    unreadable: list[str] = []
    folder_of_study: dict[str, Path] = {}
    for folder, finished in trial_folders(root, unreadable):
        if not finished:
            rows.append(unfinished_row(folder, root))
            continue
        try:
            rows.append(result_row(folder, root))
        except ValueError as error:
            unreadable.append(str(error))
        else:
            folder_of_study.setdefault(rows[-1]["study"], folder)
    if not rows and not unreadable:
        raise ValueError(f"{root} holds no trial: looked for **/{RESULT_FILE} below it. {studies_beside(root)}")
    if len(folder_of_study) > 1:
        found = ", ".join(f"{study} (as in {folder})" for study, folder in sorted(folder_of_study.items()))
        raise ValueError(f"{root} holds {len(folder_of_study)} studies: {found}. Give the folder of one of them")
    scores = sorted({name for row in rows for name in row if name.startswith(SCORE)})
    columns = COLUMNS | dict.fromkeys(scores, "Float64")
    frame = pd.DataFrame(
        {name: pd.array([row.get(name) for row in rows], dtype=dtype) for name, dtype in columns.items()}  # type: ignore[call-overload]
    )
    order = frame.assign(phase=frame["phase"].map(PHASE_ORDER)).sort_values(["phase", "trial", "seed", "run_dir"]).index
    frame = frame.loc[order].reset_index(drop=True)
    frame.attrs = {"path": str(root), "unreadable": unreadable}
    return frame


def trial_folders(root: Path, unreadable: list[str]) -> Iterator[tuple[Path, bool]]:
    """Yield each folder of a trial below `root`, in a stable order, and whether it has a result.

    Folders that cannot be listed are named in `unreadable`.
    """

    def note(error: OSError) -> None:
        unreadable.append(f"{error.filename}: {error.strerror}")

    for folder, subfolders, files in os.walk(root, onerror=note):
        finished = RESULT_FILE in files
        started = ".hydra" in subfolders and Path(folder) != root
        if finished or started:
            yield Path(folder), finished
        subfolders[:] = sorted(name for name in subfolders if name not in NO_TRIALS_INSIDE)


def result_row(folder: Path, root: Path) -> dict[str, Any]:
    """Read one result into the columns of the frame; ValueError where a value has the wrong type."""
    path = folder / RESULT_FILE
    row = asdict(read_result(path))
    for name in ("sites", "branches", "overrides"):
        if not isinstance(row[name], list):
            raise ValueError(f"{path}: {name} is {row[name]!r}, expected a list")
        row[name] = "; ".join(map(str, row[name])) or None
    if not isinstance(row["provenance"], dict):
        raise ValueError(f"{path}: provenance is {row['provenance']!r}, expected an object")
    scores = row.pop("zero_cost")
    if not isinstance(scores, dict) or not all(fits(value, "Float64") for value in scores.values()):
        raise ValueError(f"{path}: zero_cost is {scores!r}, expected numbers by name")
    row |= {f"{SCORE}{name}": value for name, value in scores.items()}
    row["provenance"] = json.dumps(row["provenance"], sort_keys=True) if row["provenance"] else None
    row["run_dir"] = row["run_dir"] or folder.relative_to(root).as_posix()
    for name, allowed in (("status", STATUSES), ("phase", PHASES)):
        if row[name] not in allowed:
            raise ValueError(f"{path}: {name} is {row[name]!r}, expected one of {', '.join(allowed)}")
    for name, dtype in COLUMNS.items():
        if not fits(row[name], dtype) or (row[name] is None and name in REQUIRED):
            raise ValueError(f"{path}: {name} is {row[name]!r}, expected a value of type {dtype}")
    return row


def fits(value: Any, dtype: str) -> bool:
    """Tell whether a value from JSON can stand in a column of this dtype."""
    if value is None:
        return True
    if isinstance(value, bool):
        return dtype == "boolean"
    if dtype == "Int64":
        return isinstance(value, int) and abs(value) < 2**63
    return isinstance(value, TYPES[dtype])


def unfinished_row(folder: Path, root: Path) -> dict[str, Any]:
    """Describe a trial that left no result by what its folder's name and place tell."""
    parts = (root.resolve().name, *folder.relative_to(root).parts)
    phase = next((PHASE_OF_FOLDER[part] for part in parts if part in PHASE_OF_FOLDER), "single")
    named = re.fullmatch(r"(\d+)-(?:.*-)?s(\d+)", folder.name)
    return {
        "phase": phase,
        "status": "unfinished",
        "reason": "no result was written: the trial was killed or is still running",
        "trial": int(named[1]) if named else None,
        "seed": int(named[2]) if named else None,
        "run_dir": folder.relative_to(root).as_posix(),
    }


def studies_beside(root: Path) -> str:
    """Say which studies the parent folder (and `runs/`) holds, the nearest name first."""
    parents = [root.parent] if root.parent.name == "runs" else [root.parent, root.parent / "runs"]
    found = [
        folder for parent in parents if parent.is_dir() for folder in sorted(parent.iterdir()) if has_trials(folder)
    ]
    found = [folder for folder in found if folder != root]
    if not found:
        return f"No study was found in {' or '.join(map(str, parents))}; a study is made by `python -m search -m ...`"
    names = {folder.name: folder for folder in found}
    near = difflib.get_close_matches(root.name, names, n=1)
    hint = f"Did you mean {names[near[0]]}? " if near else ""
    return f"{hint}Studies that exist: {', '.join(map(str, found))}"


def has_trials(folder: Path) -> bool:
    """Tell whether a folder looks like a study: a result lies one or two folders below it."""
    return any(next(folder.glob(f"{depth}/{RESULT_FILE}"), None) for depth in ("*", "*/*"))
