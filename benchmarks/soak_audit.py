"""Holds a study, read with Optuna alone, against what its trials wrote down themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

__all__ = ["Audit", "Execution", "Snapshot", "audit", "executions", "line", "snapshot"]

Snapshot = dict[int, float]  # number -> value of the trials that were complete at one moment


@dataclass(frozen=True)
class Execution:
    """One time that a trial was begun; `ended` where it came to its end."""

    number: int
    x: str
    token: str
    pid: int
    folder: str
    ended: bool


@dataclass
class Audit:
    """What an audit found. All but the first four, `repeated` and `remarks` are faults.

    Attributes:
        complete: trials with a value.
        interrupted: trials that were taken back because their process died; the same proposal ran again as another one.
        given_up: proposals that were the death of so many workers that they were not tried again; they count.
        redone: executions that had written their outcome and died before the study was told; they ran again.
        lost: results that the study once had and has no more or has changed, complete trials without an outcome on
            disk, outcomes that differ from the study, and proposals that were begun and never came to an end.
        double: proposals with more than one complete trial, and trial numbers that ended more than once.
        beyond_budget: complete and given up trials over, or under, the number that was asked for.
        unfinished: trials that are left running or waiting.
        collisions: folders that two trials shared, and trials with two folders.
        gaps: numbers that are missing between 0 and the last.
        orphans: processes that outlived the command by half a minute.
        repeated: resumed trainings that were done again undisturbed; one that came to another score is lost.
    """

    complete: int = 0
    interrupted: int = 0
    given_up: int = 0
    redone: int = 0
    lost: int = 0
    double: int = 0
    beyond_budget: int = 0
    unfinished: int = 0
    collisions: int = 0
    gaps: int = 0
    orphans: int = 0
    repeated: int = 0
    remarks: list[str] = field(default_factory=list)

    def faults(self) -> int:
        """How many faults there are; whose fault an orphan is depends on the launcher."""
        shown = (self.lost, self.double, abs(self.beyond_budget), self.unfinished, self.collisions, self.gaps)
        return sum(shown)


def executions(trace: Path) -> list[Execution]:
    """What the trace of benchmarks/soak_app.py says, in the order of the starts."""
    words = [text.split(" ", 5) for text in trace.read_text().splitlines()] if trace.exists() else []
    ends = {token for kind, _, _, token, _, _ in words if kind == "end"}
    waits = {token for kind, _, _, token, _, _ in words if kind == "wait"}  # for what another was training
    return [
        Execution(int(number), x, token, int(pid), folder, token in ends)
        for kind, number, x, token, pid, folder in words
        if kind == "start" and token not in waits
    ]


def trials_of(folder: Path, url: str | None, name: str) -> list[FrozenTrial]:
    """The study's trials; Optuna's own error where the storage cannot be read."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = url if url else JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def snapshot(folder: Path, url: str | None, name: str) -> Snapshot:
    """The trials that are complete now; none where the study is not there yet."""
    try:
        trials = trials_of(folder, url, name)
    except KeyError:
        return {}
    return {trial.number: float(trial.values[0]) for trial in trials if trial.state == TrialState.COMPLETE}


def audit(folder: Path, url: str | None, name: str, trace: Path, budget: int, seen: Sequence[Snapshot]) -> Audit:
    """Audit a study that says it is done.

    Args:
        folder: the study's folder.
        url: its storage; None for the journal in `folder`.
        trace: what the trials wrote down.
        budget: the number of trials that was asked for.
        seen: what was complete at earlier moments.
    """
    trials, ran = trials_of(folder, url, name), executions(trace)
    found = Audit()
    done = {trial.number: trial for trial in trials if trial.state == TrialState.COMPLETE}
    completed = Counter(repr(trial.params["x"]) for trial in done.values())
    failed = [trial for trial in trials if trial.state in (TrialState.FAIL, TrialState.PRUNED)]
    hopeless = {repr(t.params["x"]) for t in failed if "x" in t.params} - set(completed)
    found.complete, found.given_up = len(done), len(hopeless)
    found.interrupted = len(failed) - len(hopeless)
    found.redone = sum(e.ended and e.number not in done for e in ran)
    found.beyond_budget = len(done) + len(hopeless) - budget
    found.unfinished = sum(not trial.state.is_finished() for trial in trials)
    found.gaps = len(trials) and max(t.number for t in trials) + 1 - len({t.number for t in trials})
    _doubles(found, completed, ran)
    _losses(found, done, ran, seen, set(completed) | hopeless)
    _folders(found, ran)
    return found


def _doubles(found: Audit, completed: Counter[str], ran: Sequence[Execution]) -> None:
    for x, times in completed.items():
        if times > 1:
            found.double += times - 1
            found.remarks.append(f"x={x} is complete {times} times")
    for number, times in Counter(e.number for e in ran if e.ended).items():
        if times > 1:
            found.double += times - 1
            found.remarks.append(f"trial {number} came to its end {times} times")


def _losses(
    found: Audit,
    done: dict[int, FrozenTrial],
    ran: Sequence[Execution],
    seen: Sequence[Snapshot],
    ended: set[str],
) -> None:
    lost = []
    for number, value in {pair for known in seen for pair in known.items()}:
        if number not in done or done[number].values[0] != value:
            lost.append(f"trial {number} had the value {value} before the last command, and has it no more")
    folders = {e.number: e.folder for e in ran if e.ended}
    for number, trial in done.items():
        outcome = Path(folders.get(number, "/nonexistent")) / "outcome.json"
        if not outcome.exists():
            lost.append(f"trial {number} is complete and has no outcome on disk")
            continue
        told = json.loads(outcome.read_text())
        if (told["number"], told["value"], told["x"]) != (number, trial.values[0], trial.params["x"]):
            lost.append(f"trial {number}: the study and {outcome} differ")
    lost += [f"x={x} was begun and never came to an end" for x in {e.x for e in ran} - ended]
    found.lost += len(lost)
    found.remarks += lost


def _folders(found: Audit, ran: Sequence[Execution]) -> None:
    pairs = {(e.number, e.folder) for e in ran}
    for what, counts in (("trial", Counter(n for n, _ in pairs)), ("folder", Counter(f for _, f in pairs))):
        for key, times in counts.items():
            if times > 1:
                found.collisions += times - 1
                found.remarks.append(
                    f"{what} {key} stands beside {times} different {'folders' if what == 'trial' else 'trials'}"
                )


def line(row: dict[str, Any] | None) -> list[str]:
    """A row of the Markdown table; None for its head."""
    if row is None:
        head = [
            "trials do",
            "storage",
            "launcher",
            "trials",
            "workers",
            "kills (worker, parent, all)",
            "resumes",
            "interrupted",
            "redone",
        ]
        head += [
            "given up",
            "lost",
            "double",
            "over budget",
            "unfinished",
            "collisions",
            "orphans",
            "repeated",
            "seconds",
        ]
        return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    kills = row["kills"]
    shot = f"{sum(kills.values())} ({', '.join(str(kills.get(whom, 0)) for whom in ('worker', 'parent', 'all'))})"
    keys = ["resumes", "interrupted", "redone", "given_up", "lost", "double", "beyond_budget", "unfinished"]
    cells = [
        {"toy": "sleep", "training": "train"}[row["app"]],
        row["storage"],
        row["launcher"],
        row["trials"],
        row["workers"],
        shot,
    ]
    cells += [row[key] for key in (*keys, "collisions", "orphans", "repeated", "seconds")]
    return ["| " + " | ".join(str(cell) for cell in cells) + " |"]
