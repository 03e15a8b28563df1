"""What a study optimises: `objectives.json` in its folder, for whoever reads the results of one with several objectives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from search.ledger.files import write_atomic

__all__ = ["OBJECTIVES_FILE", "read_objectives", "write_objectives"]

OBJECTIVES_FILE = "objectives.json"


def write_objectives(study_dir: Path, senses: Mapping[str, str]) -> None:
    """Write the objectives down.

    Args:
        senses: "maximize" or "minimize" by the name of a column of the tidy frame, in the order of the study.
    """
    study_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(study_dir / OBJECTIVES_FILE, json.dumps(dict(senses), indent=1) + "\n")


def read_objectives(study_dir: Path) -> dict[str, str]:
    """Read them; empty where none were written down.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    path = study_dir / OBJECTIVES_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}: not readable ({error}); move it away to read the study without its Pareto front"
        ) from None
    if not isinstance(found, dict) or not set(found.values()) <= {"maximize", "minimize"}:
        raise ValueError(f"{path}: expected maximize or minimize by the name of each objective, found {found!r}")
    return found
