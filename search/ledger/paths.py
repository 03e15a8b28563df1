"""Where things lie below a study's folder. Nobody else spells these names."""

from __future__ import annotations

from pathlib import Path

from search.ledger.result import Phase

JOURNAL = "study.journal"
WORKERS = "workers"
STATE_FILE = "state.pt"  # in a trial's folder, while it can be continued from there
CHECKPOINT_FILE = "checkpoint.pt"  # the weights that a trial's scores are of
ASIDE = "aside"  # what was damaged, or belongs to nobody: nothing that could be a result is deleted
NO_TRIALS_INSIDE = frozenset({".hydra", ASIDE, WORKERS, "wandb", "tables"})
_PHASE_FOLDER: dict[Phase, str] = {"search": "trials", "final": "final", "single": "single"}


def phase_folder(phase: Phase) -> str:
    """Name of the folder below a study's that holds the trials of a phase."""
    return _PHASE_FOLDER[phase]


def refuse_blocked(folder: Path, key: str) -> None:
    """Raise ValueError where a folder cannot be made, since a file has its name or that of one above it."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{key}={folder}: {path} is a file, and a folder is needed there; give another name")


def trial_subdir(phase: Phase, number: int, seed: int) -> str:
    """Folder of a trial below its study's folder, e.g. `trials/0007-s0`; numbers are never given twice."""
    return str(Path(_PHASE_FOLDER[phase]) / f"{number:04d}-s{seed}")


def run_in_words(place: str, study_dir: str | None) -> str:
    """The run in a folder relative to that of the studies, e.g. "trial 3", or "final trial 1 of study other".

    Args:
        study_dir: folder of the study that speaks; None where none does.
    """
    study, _, rest = place.partition("/")
    phase, _, folder = rest.partition("/")
    number = folder.partition("-s")[0]
    if not number.isdigit():  # a run outside of a study, or a folder elsewhere
        return place
    kind = "final trial" if phase == _PHASE_FOLDER["final"] else "trial"
    own = study_dir is not None and study == Path(study_dir).name
    return f"{kind} {int(number)}{'' if own else f' of study {study}'}"


def free_subdir(study_dir: Path, phase: Phase, number: int, seed: int) -> str:
    """`trial_subdir`, or the first of `0007-s0.2`, `0007-s0.3`... that is not there yet.

    A number is given twice only by a storage that was put back to an earlier state; what it has forgotten is kept.
    """
    first = subdir = trial_subdir(phase, number, seed)
    turn = 1
    while (study_dir / subdir).exists():
        turn += 1
        subdir = f"{first}.{turn}"
    return subdir
