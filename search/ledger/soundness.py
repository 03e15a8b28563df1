"""What is wrong with the folder of a trial that came to its end: its result, its history, its weights. Changes nothing."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from search.ledger.paths import CHECKPOINT_FILE, STATE_FILE
from search.ledger.record import read_history
from search.ledger.result import RESULT_FILE, Phase, read_result
from search.ledger.versions import NewerVersion

__all__ = ["Asked", "run_fault", "state_fault", "weights_fault"]

_KEPT = re.compile(r"^checkpoint: *['\"]?(never|final|always)", re.MULTILINE)


@dataclass(frozen=True)
class Asked:
    """What the study knows of a run, and its result must say too.

    Attributes:
        fingerprint: of the run; None where it is not known.
        statuses: that fit the way it ended.
    """

    study: str
    phase: Phase
    trial: int
    fingerprint: str | None = None
    statuses: Collection[str] = ("ok",)


def run_fault(folder: Path, asked: Asked, with_history: bool = True) -> str | None:
    """Why the result in `folder`, or the history beside it, is not that of the run, in a few words; None where it is.

    Each file is read once: a study looks at thousands of them before it goes on.

    Raises:
        NewerVersion: the result is of a later schema, so not to be judged here.
    """
    path = folder / RESULT_FILE
    try:
        result = read_result(path)
    except NewerVersion:
        raise
    except ValueError as error:
        if not folder.is_dir():
            return "its folder is gone"
        return f"its result is damaged ({_short(error, path)})" if path.is_file() else "its result is gone"
    if (result.study, result.phase, result.trial) != (asked.study, asked.phase, asked.trial):
        return f"its result is that of {result.study}, {result.phase} trial {result.trial}"
    if asked.fingerprint is not None and result.fingerprint != asked.fingerprint:
        return f"its result is of another run (fingerprint {result.fingerprint}, not {asked.fingerprint})"
    if result.status not in asked.statuses:
        return f"its result says {result.status!r}, the storage {' or '.join(map(repr, asked.statuses))}"
    held = len(read_history(folder)) if with_history else result.epochs
    return None if held == result.epochs else f"its history holds {held} of {result.epochs} epochs"


def weights_fault(folder: Path) -> str | None:
    """Why the weights beside a sound, final result cannot be used; None where they can, or were not to be kept."""
    path, kept = folder / CHECKPOINT_FILE, _kept(folder)
    final = read_result(folder / RESULT_FILE).phase != "search"
    if not path.is_file():
        return "its weights are gone" if kept == "always" or (kept == "final" and final) else None
    return None if _is_whole(path) else "its weights are truncated or damaged"


def state_fault(folder: Path) -> str | None:
    """Why the saved state in `folder` cannot be continued; None where it can, or where there is none."""
    path = folder / STATE_FILE
    return "its saved state is truncated or damaged" if path.is_file() and not _is_whole(path) else None


def _kept(folder: Path) -> str | None:
    """What the trial's config says of its weights; None where it cannot be read."""
    try:
        found = _KEPT.search((folder / ".hydra" / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return found[1] if found else None


def _is_whole(path: Path) -> bool:
    """Whether a file of torch's, which is a zip, is whole: its parts are there and fit their checksums."""
    try:
        with zipfile.ZipFile(path) as packed:
            return packed.testzip() is None
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def _short(error: ValueError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ").partition("; ")[0]
