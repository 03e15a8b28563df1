"""The columns of the tidy frame, what fills them (the folder of a trial, or a file of trials), and the settings of a trial."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pandas as pd

from search.ledger.files import digest
from search.ledger.metric import CLASSIFY, SCORE_PREFIX, TASK_METRICS
from search.ledger.result import RESULT_FILE, Phase, Status, TrialResult, read_result
from search.ledger.study_files import trial_subdir

Folder = str | os.PathLike[str]
PANDAS = {str: "string", int: "Int64", float: "Float64", bool: "boolean"}


def _columns() -> Iterator[tuple[str, str]]:
    """The fields of `TrialResult`, lists joined by "; ", and in the place of its mappings the metrics of classification."""
    ours = TASK_METRICS[CLASSIFY]
    for name, hint in get_type_hints(TrialResult).items():
        if name == "metrics":
            scores = (metric.on(split).column for split in ("val", "test") for metric in ours if split in metric.splits)
            yield from ((column, "Float64") for column in scores)
        elif name not in ("task", "doses", "zero_cost"):
            yield name, next((PANDAS[kind] for kind in (hint, *get_args(hint)) if kind in PANDAS), "string")
        if name == "classes":
            yield from ((metric.chance, "Float64") for metric in ours if metric.has_chance)


COLUMNS: dict[str, str] = dict(_columns())
"""Name and pandas dtype of each column of `load_study`; what they mean is said in `TrialResult` and docs/tables.md. The status
"unfinished" is that of a folder without a result, `provenance` is JSON.

After these stand Float64 columns of what some studies have: `zero_cost.<name>`, where untrained networks were scored, and the
metrics of other tasks and of installed packages."""


def is_extra(name: str) -> bool:
    """Whether a column beside `COLUMNS` is one of a score or of another's metric."""
    return name.startswith((SCORE_PREFIX, "val_", "test_", "probe_", "chance_")) and name not in COLUMNS


PHASES: tuple[Phase, ...] = ("search", "final", "single")
PHASE_OF_FOLDER = {Path(trial_subdir(phase, 0, 0)).parts[0]: phase for phase in PHASES}
REQUIRED = ("study", "trial", "seed")
TYPES: dict[str, tuple[type, ...]] = {"Float64": (int, float), "string": (str,), "boolean": (bool,)}


def result_row(root: str, place: str, provenances: dict[str, str]) -> dict[str, Any]:
    """Read the result of one trial into the columns of the frame.

    Args:
        provenances: what was written as JSON before, by its repr: the trials of a study share a few.

    Raises:
        ValueError: the file cannot be read, or a value has the wrong type; the message names the file.
    """
    path = os.path.join(root, place, RESULT_FILE)
    row = dict(vars(read_result(Path(path))))
    for name in ("sites", "branches", "overrides"):
        if not isinstance(row[name], list):
            raise ValueError(f"{path}: {name} is {row[name]!r}, expected a list")
        row[name] = "; ".join(map(str, row[name])) or None
    provenance = row["provenance"]
    if not isinstance(provenance, dict):
        raise ValueError(f"{path}: provenance is {provenance!r}, expected an object")
    del row["doses"]  # by site; the frame has their mean
    for group, prefix in (("metrics", ""), ("zero_cost", SCORE_PREFIX)):
        scores = row.pop(group)
        if not isinstance(scores, dict) or not all(_fits(value, "Float64") for value in scores.values()):
            raise ValueError(f"{path}: {group} is {scores!r}, expected numbers by name")
        row |= {f"{prefix}{name}": value for name, value in scores.items()}
    seen = repr(provenance)
    if seen not in provenances:
        provenances[seen] = json.dumps(provenance, sort_keys=True)
    row["provenance"] = provenances[seen] if provenance else None
    row["run_dir"] = row["run_dir"] or place or "."
    for name, allowed in (("status", get_args(Status)), ("phase", PHASES)):
        if row[name] not in allowed:
            raise ValueError(f"{path}: {name} is {row[name]!r}, expected one of {', '.join(allowed)}")
    for name, dtype in COLUMNS.items():
        value = row.get(name)
        if value is None:
            if name in REQUIRED:
                raise ValueError(f"{path}: {name} is None, expected a value of type {dtype}")
        elif not _fits(value, dtype):
            raise ValueError(f"{path}: {name} is {value!r}, expected a value of type {dtype}")
    return row


def _fits(value: Any, dtype: str) -> bool:
    """Tell whether a value from JSON can stand in a column of this dtype."""
    if value is None:
        return True
    if isinstance(value, bool):
        return dtype == "boolean"
    if dtype == "Int64":
        return isinstance(value, int) and abs(value) < 2**63
    return isinstance(value, TYPES[dtype])


def unfinished_row(root: str, place: str) -> dict[str, Any]:
    """Describe a trial that left no result by what its folder's name and place tell."""
    folder = Path(place)
    parts = (Path(root).resolve().name, *folder.parts)
    phase = next((PHASE_OF_FOLDER[part] for part in parts if part in PHASE_OF_FOLDER), "single")
    named = re.fullmatch(r"(\d+)-(?:.*-)?s(\d+)", folder.name)
    return {
        "phase": phase,
        "status": "unfinished",
        "reason": "no result was written: the trial was killed or is still running",
        "trial": int(named[1]) if named else None,
        "seed": int(named[2]) if named else None,
        "run_dir": folder.as_posix(),
    }


def shared_trials(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the tidy frame as it may be given away: without the names of the machines, and without their folders."""

    def without_host(text: str) -> str:
        return json.dumps({name: value for name, value in json.loads(text).items() if name != "host"})

    shown = {"provenance": without_host, "root": without_folders}
    return frame.assign(
        **{name: frame[name].map(show, na_action="ignore").astype("string") for name, show in shown.items()}
    )


def without_folders(root: str) -> str:
    """The place of a root in words that hold on any machine; of two that differ, two.

    A trial of another study is named by study, phase and folder, a file by its name and a digest of where it lies.
    """
    path = Path(root)
    if not path.is_absolute():
        return root
    return f"{path.name} ({digest(root)})" if path.suffix else "/".join(path.parts[-3:])


def read_trials_file(path: Path) -> pd.DataFrame:
    """Read what `save_tidy` wrote, CSV or Parquet, as `load_study` would have read the study.

    What a study declares beside its trials (`design.json` and such) is looked for beside the file.

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
    extra = [name for name in frame.columns if is_extra(name)]
    frame = frame.reindex(columns=[*COLUMNS, *extra]).astype(COLUMNS)  # an earlier version did not measure all of them
    frame.attrs = {"path": str(path.parent), "unreadable": []}
    return frame


def folder_of(frame: pd.DataFrame) -> Path:
    """Return what the frame's `run_dir` is relative to."""
    path = Path(str(frame.attrs.get("path", "")))
    return path if path.is_dir() else Path()  # a pooled frame's are relative to the working folder


def recipe_folders(path: Folder, frame: pd.DataFrame) -> dict[str, Path]:
    """Return, for each recipe hash of a study, the folder of the first trial that has it."""
    first = frame.dropna(subset=["recipe_hash", "run_dir"]).drop_duplicates("recipe_hash")
    return {recipe: Path(path) / place for recipe, place in zip(first["recipe_hash"], first["run_dir"], strict=True)}


def differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the names whose values are not equal in all of `settings`, each with its values; "absent" where none."""
    names = list(dict.fromkeys(name for each in settings for name in each))
    values = {name: [each.get(name, "absent") for each in settings] for name in names}
    return {name: given for name, given in values.items() if any(value != given[0] for value in given)}
