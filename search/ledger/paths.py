"""Where things lie below a study's folder. Nobody else spells these names."""

from __future__ import annotations

from pathlib import Path

from search.ledger.result import Phase

__all__ = ["JOURNAL", "NO_TRIALS_INSIDE", "STATE_FILE", "WORKERS", "trial_subdir"]

JOURNAL = "study.journal"
WORKERS = "workers"
STATE_FILE = "state.pt"  # in a trial's folder, while it can be continued from there
NO_TRIALS_INSIDE = frozenset({".hydra", WORKERS, "wandb", "tables"})
_PHASE_FOLDER: dict[Phase, str] = {"search": "trials", "final": "final", "single": "single"}


def trial_subdir(phase: Phase, number: int, seed: int) -> str:
    """Folder of a trial below its study's folder, e.g. `trials/0007-s0`; numbers are never given twice."""
    return str(Path(_PHASE_FOLDER[phase]) / f"{number:04d}-s{seed}")
