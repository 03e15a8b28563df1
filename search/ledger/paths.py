"""Where things lie below a study's folder. Nobody else spells these names."""

from __future__ import annotations

from pathlib import Path

from search.ledger.result import Phase

__all__ = ["JOURNAL", "WORKERS", "trial_subdir"]

JOURNAL = "study.journal"
WORKERS = "workers"
_PHASE_FOLDER: dict[Phase, str] = {"search": "trials", "final": "final", "single": "single"}


def trial_subdir(phase: Phase, number: int, seed: int) -> str:
    """Folder of a trial below its study's folder, e.g. `trials/0007-s0`; numbers are never given twice."""
    return str(Path(_PHASE_FOLDER[phase]) / f"{number:04d}-s{seed}")
