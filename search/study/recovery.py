"""Taking back what dead workers left, in the study and in the ledger."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from optuna.trial import FrozenTrial

from search.ledger.record import close_abandoned
from search.ledger.result import Phase, Status
from search.study.claims import Desk
from search.study.marks import FOLDER, INTERRUPTED, REASON, TRIES
from search.study.plan import Plan

__all__ = ["close_ledger", "close_record", "recover"]

log = logging.getLogger("xvol")


def recover(desk: Desk, plan: Plan) -> int:
    """Write down again, or give up, the trials of dead workers, and close their records; return how many there were.

    The record comes first and the study's word last, so whoever dies in between leaves a trial that is still taken back.
    """
    taken = desk.recover(functools.partial(close_ledger, plan))
    for trial in taken:
        outcome = "it is run again" if trial.user_attrs.get(INTERRUPTED) else "it has failed"
        log.warning("%s trial %d: %s; %s", plan.phase, trial.number, trial.user_attrs[REASON], outcome)
    return len(taken)


def close_ledger(plan: Plan, trial: FrozenTrial, reason: str, again: bool) -> None:
    """Write the result of a trial whose process could not: interrupted where it is run again, else failed."""
    close_record(Path(plan.study_dir), plan.study_name, plan.phase, trial, reason, again)


def close_record(study_dir: Path, name: str, phase: Phase, trial: FrozenTrial, reason: str, again: bool) -> None:
    """`close_ledger` for whoever has no plan of the study."""
    subdir = trial.user_attrs.get(FOLDER)
    if subdir:
        status: Status = "interrupted" if again else "failed"
        tries = int(trial.user_attrs.get(TRIES, 1))
        close_abandoned(study_dir / subdir, name, trial.number, phase, status, reason, tries)
