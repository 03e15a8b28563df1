"""Holds a study of real trainings against its ledger, and some resumed trainings against undisturbed ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from soak_audit import Audit, Execution, Snapshot, executions, trials_of

__all__ = ["audit_ledger", "audit_runs", "resumed_alike"]

ROOT = Path(__file__).resolve().parents[1]
TEMPORARY = re.compile(r"\..*[0-9a-f]{32}.*")
SCORES = ("val_top1", "val_loss", "fuse_error")


def audit_ledger(folder: Path, url: str | None, name: str, trace: Path, budget: int, seen: Sequence[Snapshot]) -> Audit:
    """Audit a study that says it is done, its search and its re-evaluation.

    Args:
        folder: the study's folder.
        url: its storage; None for the journal in `folder`.
        trace: what the trials wrote down.
        budget: the number of trainings that was asked for in the search.
        seen: what was complete in the search at earlier moments.
    """
    found, ran = Audit(), executions(trace)
    search, final = trials_of(folder, url, name), trials_of(folder, url, f"{name}.final")
    results = {path.parent.relative_to(folder).as_posix(): _row(path) for path in folder.glob("*/*/result.json")}
    trained = [row for row in results.values() if row["status"] == "ok" and row["reused_from"] is None]
    for trials in (search, final):
        done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        found.complete += len(done)
        found.interrupted += sum(bool(trial.user_attrs.get("interrupted")) for trial in trials)
        found.unfinished += sum(not trial.state.is_finished() for trial in trials)
        found.gaps += bool(trials) and max(t.number for t in trials) + 1 - len({t.number for t in trials})
        _losses(found, done, results, folder)
    _earlier(found, search, seen)
    audit_runs(found, folder.parent)
    _counted(found, search, trained)
    found.given_up = sum(row["status"] == "failed" for row in results.values())
    found.beyond_budget = sum(row["phase"] == "search" for row in trained) + found.given_up - budget
    _left_over(found, folder, results)
    _once(found, ran)
    return found


def _row(path: Path) -> dict[str, Any]:
    row = json.loads(path.read_text())
    assert isinstance(row, dict)
    return row


def _losses(found: Audit, done: Sequence[FrozenTrial], results: dict[str, dict[str, Any]], folder: Path) -> None:
    for trial in done:
        row = results.get(trial.user_attrs["run_dir"])
        if row is None or row["status"] != "ok" or row["metrics"].get("val_top1") != trial.values[0]:
            found.lost += 1
            found.remarks.append(f"{trial.user_attrs['run_dir']}: the study has {trial.values}, the ledger {row}")
        elif (folder / trial.user_attrs["run_dir"] / "history.csv").read_text().count("\n") != row["epochs"] + 1:
            found.lost += 1
            found.remarks.append(f"{trial.user_attrs['run_dir']}: the history is not that of {row['epochs']} epochs")


def _earlier(found: Audit, search: Sequence[FrozenTrial], seen: Sequence[Snapshot]) -> None:
    now = {trial.number: trial.values[0] for trial in search if trial.state == TrialState.COMPLETE}
    for number, value in {pair for known in seen for pair in known.items()}:
        if now.get(number) != value:
            found.lost += 1
            found.remarks.append(f"trial {number} had the value {value} before the last command, now {now.get(number)}")


def audit_runs(found: Audit, root: Path) -> None:
    """Over all studies below `root`: what was trained was trained once, and what was taken over follows to its source."""
    rows = {path.parent.relative_to(root).as_posix(): _row(path) for path in root.glob("*/*/*/result.json")}
    ended = {place: row for place, row in rows.items() if row["status"] == "ok" and row["phase"] != "single"}
    trained: dict[str, list[str]] = {}
    for place, row in ended.items():
        if row["reused_from"] is None:
            trained.setdefault(row["fingerprint"], []).append(place)
    for fingerprint, places in trained.items():
        if len(places) > 1:
            found.double += len(places) - 1
            found.remarks.append(f"{fingerprint} was trained to its end in {', '.join(places)}")
    for place, row in ended.items():
        source = row["reused_from"]
        if source is not None and source not in trained.get(row["fingerprint"], []):
            found.lost += 1
            found.remarks.append(f"{place} was taken over from {source}, where nothing of that fingerprint was trained")


def _counted(found: Audit, search: Sequence[FrozenTrial], trained: Sequence[dict[str, Any]]) -> None:
    skipped = {trial.user_attrs["run_dir"]: trial for trial in search if trial.user_attrs.get("skipped")}
    for row in trained:
        if row["run_dir"] in skipped:
            found.double += 1
            found.remarks.append(
                f"{row['run_dir']} was trained and is not counted: {skipped[row['run_dir']].user_attrs}"
            )


def _left_over(found: Audit, folder: Path, results: dict[str, dict[str, Any]]) -> None:
    for trial in folder.glob("*/*-s*"):
        place = trial.relative_to(folder).as_posix()
        open_ends = [name for name in os.listdir(trial) if TEMPORARY.fullmatch(name)]
        open_ends += [] if place in results else ["no result"]
        found.unfinished += len(open_ends)
        found.remarks += [f"{place}: {what}" for what in open_ends]


def _once(found: Audit, ran: Sequence[Execution]) -> None:
    for folder, times in Counter(execution.folder for execution in ran).items():
        if times > 1:
            found.collisions += times - 1
            found.remarks.append(f"{folder} was given to {times} executions")


def resumed_alike(folder: Path, fixed: Sequence[str], most: int, work: Path) -> tuple[int, list[str]]:
    """Train resumed trials again, undisturbed, and compare their scores to the last bit.

    Args:
        folder: the study's.
        fixed: overrides that all its trials share.
        most: how many are trained at most.
        work: where they are trained.

    Returns:
        How many were compared, and a line for each that differs.
    """
    rows = [_row(path) for path in sorted(folder.glob("trials/*/result.json"))]
    resumed = [row for row in rows if row["status"] == "ok" and row["resumed_from"] and not row["reused_from"]][:most]
    differ = []
    for turn, row in enumerate(resumed):
        place = work / f"again{turn}"
        command = [sys.executable, "-m", "search", *fixed, *row["overrides"], f"hydra.run.dir={place}"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        again = _row(place / "result.json")
        differ += [
            f"{row['run_dir']} {score}: resumed {row[score]}, undisturbed {again[score]}"
            for score in SCORES
            if row[score] != again[score]
        ]
    return len(resumed), differ
