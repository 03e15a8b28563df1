"""One trial's folder as one row of the tidy frame, checked value by value."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from search.ledger.metric import SCORE_PREFIX
from search.ledger.paths import trial_subdir
from search.ledger.result import RESULT_FILE, Phase, read_result
from search.report.reading.columns import COLUMNS

__all__ = ["PHASES", "result_row", "unfinished_row"]

PHASES: tuple[Phase, ...] = ("search", "final", "single")
PHASE_OF_FOLDER = {Path(trial_subdir(phase, 0, 0)).parts[0]: phase for phase in PHASES}
REQUIRED = ("study", "trial", "seed")
STATUSES = ("ok", "pruned", "failed", "interrupted", "infeasible", "duplicate")
TYPES: dict[str, tuple[type, ...]] = {"Float64": (int, float), "string": (str,), "boolean": (bool,)}


def result_row(root: str, place: str, provenances: dict[str, str]) -> dict[str, Any]:
    """Read the result of one trial into the columns of the frame.

    Args:
        root: folder of the study.
        place: the trial's folder, relative to it.
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
        if not isinstance(scores, dict) or not all(fits(value, "Float64") for value in scores.values()):
            raise ValueError(f"{path}: {group} is {scores!r}, expected numbers by name")
        row |= {f"{prefix}{name}": value for name, value in scores.items()}
    seen = repr(provenance)
    if seen not in provenances:
        provenances[seen] = json.dumps(provenance, sort_keys=True)
    row["provenance"] = provenances[seen] if provenance else None
    row["run_dir"] = row["run_dir"] or place or "."
    for name, allowed in (("status", STATUSES), ("phase", PHASES)):
        if row[name] not in allowed:
            raise ValueError(f"{path}: {name} is {row[name]!r}, expected one of {', '.join(allowed)}")
    for name, dtype in COLUMNS.items():
        value = row.get(name)
        if value is None:
            if name in REQUIRED:
                raise ValueError(f"{path}: {name} is None, expected a value of type {dtype}")
        elif not fits(value, dtype):
            raise ValueError(f"{path}: {name} is {value!r}, expected a value of type {dtype}")
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
