"""The record of one trial: a row a finished epoch, one result however the trial ends, and what is wrong with a damaged one."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from search.ledger.files import NewerVersion, is_temporary
from search.ledger.metric import CLASSIFY, columns_on
from search.ledger.provenance import provenance
from search.ledger.result import RESULT_FILE, Phase, Status, TrialResult, read_result, sound_result, write_result
from search.ledger.study_files import CHECKPOINT_FILE, STATE_FILE, phase_folder

HISTORY_FILE = "history.csv"
_KEPT = re.compile(r"^checkpoint: *['\"]?(never|final|always)", re.MULTILINE)
_SEED = re.compile(r"-s(-?\d+)")
RECIPE_PARTS = ("backbone", "data", "train", "measure", "start")  # what `recipe_hash` of search/config.py is made of
NO_RECIPE = frozenset(
    {
        *("data.root", "data.download", "data.workers", "data.probe_size"),
        *("train.state_every_seconds", "train.eval_every", "measure.zero_cost", "measure.coco_backend", "start.root"),
    }
)


def now() -> str:
    """The present moment, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Record:
    """Holds a trial's `TrialResult` while it is filled in, and writes `history.csv` and `result.json`.

    `columns` are of the metrics that are read after each epoch; by default those of classification.
    """

    def __init__(self, folder: Path, result: TrialResult, columns: Iterable[str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.result = result
        result.started_at = now()
        result.provenance = dict(provenance())
        _forget_duplicate(folder)
        scores = sorted(columns_on("val") if columns is None else columns)
        self._columns = ("epoch", "train_loss", *scores, "lr", "seconds")
        with (folder / HISTORY_FILE).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(self._columns)

    def epoch(self, values: Mapping[str, Any]) -> None:
        """Append one epoch to `history.csv`; the file is whole after each call."""
        with (self.folder / HISTORY_FILE).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([_short(values.get(column)) for column in self._columns])
            file.flush()
            os.fsync(file.fileno())
        self.result.epochs = int(values["epoch"])

    def close(self) -> Path:
        """Write `result.json`, atomically."""
        self.result.finished_at = now()
        return write_result(self.folder, self.result)


def _forget_duplicate(folder: Path) -> None:
    """A trial that waited for another's result is run again in its own folder."""
    result = sound_result(folder / RESULT_FILE)
    if result is not None and result.status == "duplicate":
        (folder / RESULT_FILE).unlink(missing_ok=True)


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def read_history(folder: Path) -> list[dict[str, str]]:
    """The finished epochs in `history.csv`, as text by column; a torn or foreign line ends them."""
    try:
        text = (folder / HISTORY_FILE).read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return []
    whole = text[: text.rfind("\n") + 1]  # what follows the last line's end was not written to its end
    rows = list(csv.reader(line for line in whole.splitlines() if "\0" not in line))
    if not rows or rows[0][:1] != ["epoch"]:
        return []
    epochs: list[dict[str, str]] = []
    for row in rows[1:]:
        if len(row) != len(rows[0]) or row[0] != str(len(epochs) + 1):
            break
        epochs.append(dict(zip(rows[0], row, strict=True)))
    return epochs


def close_abandoned(
    folder: Path,
    study: str,
    trial: int,
    phase: Phase,
    status: Status = "interrupted",
    reason: str = "its process died",
    attempt: int = 1,
) -> None:
    """Write the result of a trial whose process died before it could, and remove what that process left half written.

    A result that is there is kept. Killed in the middle and called again, it ends in the same.
    """
    if not folder.is_dir():
        return
    for name in os.listdir(folder):
        if is_temporary(name):
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()
    seed = seed_of(folder)
    if seed is None or (folder / RESULT_FILE).exists():
        return
    write_result(
        folder,
        TrialResult(
            study=study,
            trial=trial,
            phase=phase,
            status=status,
            reason=reason,
            seed=seed,
            attempt=attempt,
            epochs=len(read_history(folder)),
            run_dir=f"{folder.parent.name}/{folder.name}",
        ),
    )


def seed_of(folder: Path) -> int | None:
    """The seed in the name of a trial's folder, e.g. 3 of `0007-s3`; None where it is no such name."""
    found = _SEED.search(folder.name)
    return None if found is None else int(found[1])


def seeds_below(study_dir: Path, phase: Phase) -> set[int]:
    """The seeds of all trials of a phase that have a folder."""
    with contextlib.suppress(OSError):
        seeds = (seed_of(folder) for folder in (study_dir / phase_folder(phase)).iterdir())
        return {seed for seed in seeds if seed is not None}
    return set()


def supersede(folder: Path) -> None:
    """Mark the failed trial in `folder`, if it is one, as run again: it is then an interrupted attempt, and keeps its reason."""
    result = sound_result(folder / RESULT_FILE)
    if result is not None and result.status == "failed":
        result.status, result.reason = "interrupted", f"run again; it had failed: {result.reason}"
        write_result(folder, result)


@dataclass(frozen=True)
class Asked:
    """What the study knows of a run, and its result must say too: its fingerprint where that is known, statuses that fit its end."""

    study: str
    phase: Phase
    trial: int
    fingerprint: str | None = None
    statuses: Collection[str] = ("ok",)


def run_fault(folder: Path, asked: Asked, with_history: bool = True) -> str | None:
    """Why the result in `folder`, or the history beside it, is not that of the run, in a few words; None where it is.

    Each file is read once: a study looks at thousands of them before it goes on. A result of a later schema is not judged: NewerVersion.
    """
    path = folder / RESULT_FILE
    try:
        result = read_result(path)
    except NewerVersion:
        raise
    except ValueError as error:
        if not folder.is_dir():
            return "its folder is gone"
        return f"its result is damaged ({_without(error, path)})" if path.is_file() else "its result is gone"
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


def _without(error: ValueError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ").partition("; ")[0]


def recipe_settings(folder: Path) -> dict[str, Any] | None:
    """Return what one trial held equal between arms, by dotted name; None where its folder holds no readable config."""
    try:
        config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    if not isinstance(config, dict):
        return None
    found = flat({part: config[part] for part in RECIPE_PARTS if part in config})
    if config.get("task", CLASSIFY) != CLASSIFY:  # as in `recipe_hash`
        found["task"] = config["task"]
    return {name: value for name, value in found.items() if name not in NO_RECIPE}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name each leaf of nested mappings by its path: {"train": {"lr": 1}} is {"train.lr": 1}."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping) and value
        leaves |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return leaves
