"""Taking back what dead workers left, and trials whose result is lost: closed, trained again, or written down again.

What is in the way is moved below `aside/` in the study's folder, never deleted.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from search.ledger.files import move
from search.ledger.record import Asked, close_abandoned, read_history, run_fault, seed_of
from search.ledger.result import RESULT_FILE, Phase, Status, TrialResult, write_result
from search.ledger.study_files import ASIDE
from search.study.liveness import clear_dead
from search.study.queue import TrialQueue
from search.study.spec import StudySpec
from search.study.trials import BASELINE, FOLDER, FORGOTTEN, INTERRUPTED, REASON, RETRY_OF, RUNS, SKIPPED, TRIES

log = logging.getLogger("xvol")


def recover(queue: TrialQueue, spec: StudySpec) -> int:
    """Write down again, or give up, the trials of dead workers, and close their records; return how many there were.

    Their lock files are removed last, since no trial is judged by one any more.

    The record comes first and the study's word last, so whoever dies in between leaves a trial that is still taken back.
    """
    taken = queue.recover(functools.partial(close_ledger, spec))
    for trial in taken:
        outcome = "it is run again" if trial.user_attrs.get(INTERRUPTED) else "it has failed"
        log.warning("%s trial %d: %s; %s", spec.phase, trial.number, trial.user_attrs[REASON], outcome)
    clear_dead(Path(spec.study_dir))
    return len(taken)


def close_ledger(spec: StudySpec, trial: FrozenTrial, reason: str, again: bool) -> None:
    """Write the result of a trial whose process could not: interrupted where it is run again, else failed."""
    close_record(Path(spec.study_dir), spec.study_name, spec.phase, trial, reason, again)


def close_record(study_dir: Path, name: str, phase: Phase, trial: FrozenTrial, reason: str, again: bool) -> None:
    """`close_ledger` for whoever has no spec of the study."""
    if subdir := trial.user_attrs.get(FOLDER):
        tries = int(trial.user_attrs.get(TRIES, 1))
        status: Status = "interrupted" if again else "failed"
        close_abandoned(study_dir / subdir, name, trial.number, phase, status, reason, tries)


_ANY: tuple[Status, ...] = ("ok", "pruned", "failed", "interrupted", "infeasible", "duplicate")


@dataclass(frozen=True)
class Lost:
    """A run of a trial whose result is lost; `again` where it must be trained again, since the study counts on it."""

    trial: FrozenTrial
    folder: Path
    why: str
    again: bool


def runs_of(trial: FrozenTrial) -> dict[str, str | None]:
    """The folders that the runs of a trial have below the study's, each with its fingerprint where it is known."""
    runs: dict[str, str | None] = {folder: key for key, folder in trial.user_attrs.get(RUNS, {}).items()}
    latest = trial.user_attrs.get(FOLDER)
    return runs if latest is None else {latest: None, **runs}


def find_lost(trials: Sequence[FrozenTrial], study_dir: Path, study_name: str, phase: Phase) -> Iterator[Lost]:
    """The ended trials of a phase whose result is lost, and was not yet replaced.

    Nothing is found in a study of an application that keeps no ledger.

    Args:
        trials: all of the phase, in the order of their numbers.

    Raises:
        NewerVersion: a result is of a later schema.
    """
    if not any(RUNS in trial.user_attrs for trial in trials):
        return
    replaced = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    for trial in trials:
        counted = trial.state == TrialState.COMPLETE and not trial.user_attrs.get(SKIPPED)
        if not trial.state.is_finished() or (counted and trial.number in replaced):
            continue
        for subdir, fingerprint in runs_of(trial).items():
            folder = study_dir / subdir
            statuses = ("ok",) if counted else _ANY
            asked = Asked(study_name, phase, trial.number, fingerprint if counted else None, statuses)
            why = run_fault(folder, asked, with_history=counted)
            if why is not None:
                yield Lost(trial, folder, why, again=counted)


def mend_lost(queue: TrialQueue, spec: StudySpec) -> None:
    """Write down again, to be trained, the finished trials whose result is lost.

    Of a failed, pruned or interrupted one the result is written anew from what the study knows. Nothing is done while
    trials of the phase run: what another machine has just written may not be seen here yet.

    Raises:
        NewerVersion: a result is of a later schema.
    """

    def close(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        if any(trial.state == TrialState.RUNNING for trial in trials):
            return []
        found = list(find_lost(trials, Path(spec.study_dir), spec.study_name, spec.phase))
        for lost in found:
            outcome = "it is trained again" if lost.again else "it is written anew from what the storage knows"
            log.warning("%s trial %d: %s; %s", spec.phase, lost.trial.number, lost.why, outcome)
            write_anew(lost, Path(spec.study_dir), spec.study_name, spec.phase)
        return [lost.trial for lost in found if lost.again]

    queue.rerun(close)


def write_anew(lost: Lost, study_dir: Path, study_name: str, phase: Phase) -> None:
    """Put the damaged result aside, and write one that says how the trial stands.

    A folder that is gone stays gone where the trial is trained again: it will have another.
    """
    trial, seed = lost.trial, seed_of(lost.folder)
    put_aside(lost.folder / RESULT_FILE, study_dir)
    if seed is None or (lost.again and not lost.folder.is_dir()):
        return
    lost.folder.mkdir(parents=True, exist_ok=True)
    status, reason = _standing(lost)
    write_result(
        lost.folder,
        TrialResult(
            study=study_name,
            trial=trial.number,
            phase=phase,
            status=status,
            reason=reason,
            seed=seed,
            is_baseline=not lost.again and bool(trial.user_attrs.get(BASELINE)),  # an attempt is no cell of a table
            arm=None if lost.again else trial.user_attrs.get("arm"),
            arch_hash=None if lost.again else trial.user_attrs.get("arch_hash"),
            attempt=int(trial.user_attrs.get(TRIES, 1)),
            epochs=len(read_history(lost.folder)),
            run_dir=lost.folder.relative_to(study_dir).as_posix(),
        ),
    )


def _standing(lost: Lost) -> tuple[Status, str]:
    attributes = lost.trial.user_attrs
    reason = attributes.get(REASON, "no reason known")
    if lost.again:
        return "interrupted", f"run again, since {lost.why}"
    if attributes.get(INTERRUPTED) or attributes.get(SKIPPED) == FORGOTTEN:
        return "interrupted", reason
    if attributes.get(SKIPPED):
        return "duplicate", f"{attributes[SKIPPED]}; {lost.why}"
    return ("pruned" if lost.trial.state == TrialState.PRUNED else "failed"), reason


def put_aside(path: Path, study_dir: Path) -> Path | None:
    """Move a file or folder of the study to the same place below `aside/`; return where it is, None where it is not there."""
    if not path.exists():
        return None
    target = study_dir / ASIDE / path.relative_to(study_dir)
    turn = 1
    while target.exists():
        turn += 1
        target = target.with_name(f"{path.name}.{turn}")
    target.parent.mkdir(parents=True, exist_ok=True)
    move(path, target)
    return target
