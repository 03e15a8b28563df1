"""The lines of an Optuna journal: which is the first that cannot be read, and why. Reads the file, never changes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["BadLine", "first_bad_line", "names_of_studies"]

OPERATIONS = range(10)  # of Optuna 3.1 to 5.0: from "create a study" to "set a trial's system attribute"


@dataclass(frozen=True)
class BadLine:
    """A line that Optuna cannot read, and with it nothing that follows.

    Attributes:
        number: from 1.
        offset: bytes before it: so many are sound.
        why: in words.
        newer: whether it is a whole record of a later Optuna, so no damage.
        torn: whether it is the last one and has no end: the next writer cuts it off by itself.
    """

    number: int
    offset: int
    why: str
    newer: bool = False
    torn: bool = False


def first_bad_line(journal: Path) -> BadLine | None:
    """The first line that is no record; None where all are.

    Raises:
        OSError: the file cannot be read.
    """
    offset = 0
    with journal.open("rb") as file:
        for number, line in enumerate(file, start=1):
            record = _record(line)
            if not line.endswith(b"\n"):
                return BadLine(number, offset, "it was not written to its end", torn=True)
            if record is None:
                return BadLine(number, offset, f"it is no record: {_shown(line)}")
            if record["op_code"] not in OPERATIONS:
                why = f"operation {record['op_code']}, of a newer Optuna; this version reads 0 to {OPERATIONS[-1]}"
                return BadLine(number, offset, why, newer=True)
            offset += len(line)
    return None


def names_of_studies(journal: Path) -> set[str]:
    """The studies that the sound lines of a journal create."""
    with journal.open("rb") as file:
        records = (_record(line) for line in file)
        return {str(record["study_name"]) for record in records if record and record["op_code"] == 0}


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and isinstance(record.get("op_code"), int) and "worker_id" in record
    return record if whole else None


def _shown(line: bytes) -> str:
    text = line[:40].decode("utf-8", errors="backslashreplace").rstrip("\n")
    return repr(text) + ("..." if len(line) > 40 else "")
