"""Taking back what dead workers left, in the study and in the ledger."""

from __future__ import annotations

import logging
from pathlib import Path

from optuna.trial import FrozenTrial

from search.ledger.record import close_abandoned
from search.ledger.result import Status
from search.study.claims import Desk
from search.study.marks import FOLDER, INTERRUPTED, REASON, TRIES
from search.study.plan import Plan

__all__ = ["close_ledger", "recover"]

log = logging.getLogger("xvol")


def recover(desk: Desk, plan: Plan) -> int:
    """Write down again, or give up, the trials of dead workers, and close their records; return how many there were."""
    taken = desk.recover()
    for trial in taken:
        again = "it is run again" if trial.user_attrs.get(INTERRUPTED) else "it has failed"
        log.warning("%s trial %d: %s; %s", plan.phase, trial.number, trial.user_attrs[REASON], again)
        close_ledger(plan, trial)
    return len(taken)


def close_ledger(plan: Plan, trial: FrozenTrial) -> None:
    """Write the result of a trial whose process could not."""
    subdir = trial.user_attrs.get(FOLDER)
    if subdir:
        status: Status = "interrupted" if trial.user_attrs.get(INTERRUPTED) else "failed"
        folder, reason = Path(plan.study_dir) / subdir, trial.user_attrs[REASON]
        close_abandoned(
            folder, plan.study_name, trial.number, plan.phase, status, reason, int(trial.user_attrs.get(TRIES, 1))
        )
