"""Which trial a worker takes next: waiting trials are written beforehand, and each is claimed once.

With a fixed number of waiting trials the budget is exact. On one machine the claim is guarded by an `flock`, since
SQLite hands one waiting trial to two processes.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from search.ledger.paths import WORKERS
from search.study.locks import FileLock, is_held

__all__ = ["Counts", "Desk", "count"]

WORKER, INTERRUPTED, FOLDER, REASON, TRIES = "worker", "interrupted", "run_dir", "reason", "tries"
MAX_TRIES = 3  # deaths of a worker that one trial is given the blame for


@dataclass(frozen=True)
class Counts:
    """How a study stands. `finished` counts each trial that came to an end of its own: complete, pruned or failed."""

    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int

    @property
    def finished(self) -> int:
        """Trials that count towards the budget."""
        return self.complete + self.pruned + self.failed


def count(trials: Sequence[FrozenTrial]) -> Counts:
    """Count trials by state; interrupted ones are in none of the numbers, since they are run again."""
    live = [trial for trial in trials if not trial.user_attrs.get(INTERRUPTED)]
    by_state = {state: sum(trial.state == state for trial in live) for state in TrialState}
    return Counts(
        complete=by_state[TrialState.COMPLETE],
        pruned=by_state[TrialState.PRUNED],
        failed=by_state[TrialState.FAIL],
        running=by_state[TrialState.RUNNING],
        waiting=by_state[TrialState.WAITING],
    )


class Desk:
    """Where trials of one study are handed out and taken back.

    Args:
        study: the Optuna study.
        study_dir: folder of the study; holds the lock of the claims and a lock file for each living worker.
    """

    def __init__(self, study: optuna.Study, study_dir: Path) -> None:
        self.study = study
        self._dir = study_dir
        (study_dir / WORKERS).mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(study_dir / WORKERS / ".claims.lock")

    def top_up(self, budget: int, points: Sequence[Mapping[str, Any]] | None = None) -> int:
        """Write waiting trials until finished, running and waiting ones come to `budget`; return how many were written.

        Args:
            points: for a grid: the points in order, of which the first `budget` not yet in the study are written.
        """
        with self._lock:
            trials = self.study.get_trials(deepcopy=False)
            now = count(trials)
            missing = budget - now.finished - now.running - now.waiting
            if points is not None:
                seen = [_asked(trial) for trial in trials if not trial.user_attrs.get(INTERRUPTED)]
                fresh = [point for point in points if dict(point) not in seen][: max(0, missing)]
                for point in fresh:
                    self.study.enqueue_trial(dict(point))
                return len(fresh)
            for _ in range(missing):
                self.study.enqueue_trial({})
            return max(0, missing)

    def write(self, cells: Sequence[Mapping[str, Any]]) -> int:
        """Write a waiting trial for each of `cells` (user attributes with a unique "cell"), once ever."""
        with self._lock:
            trials = self.study.get_trials(deepcopy=False)
            there = {trial.user_attrs.get("cell") for trial in trials if not trial.user_attrs.get(INTERRUPTED)}
            fresh = [cell for cell in cells if cell["cell"] not in there]
            for cell in fresh:
                self.study.enqueue_trial({}, user_attrs=dict(cell))
            return len(fresh)

    def claim(self, worker: str) -> Trial | None:
        """Take the next waiting trial for `worker` (the name of its lock file), or None where none is left."""
        with self._lock:
            if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                return None
            trial = self.study.ask()
            trial.set_user_attr(WORKER, {"host": platform.node(), "lock": worker})
            return trial

    def interrupt(self, trial: FrozenTrial | Trial, reason: str) -> None:
        """Take back a trial that could not finish, and write the same one again for another worker."""
        with self._lock:
            self._requeue(trial.number, reason)

    def recover(self) -> list[FrozenTrial]:
        """Take back the running trials whose worker is dead, and return them as they now stand.

        Each is written again for another worker, unless it has been the death of `MAX_TRIES` workers: then it is a
        failed trial. A trial of another host is left alone: whether its worker lives cannot be seen from here.
        """
        with self._lock:
            stale = [
                trial.number
                for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                if self._is_stale(trial)
            ]
            for number in stale:
                self._bury(number)
            trials = self.study.get_trials(deepcopy=False)
            return [trials[number] for number in stale]

    def _bury(self, number: int) -> None:
        frozen = self.study.get_trials(deepcopy=False)[number]
        tries = int(frozen.user_attrs.get(TRIES, 1))
        if tries < MAX_TRIES:
            self._requeue(number, "its worker died", tries + 1)
            return
        reason = f"its worker died, {tries} times in a row: out of memory, or killed from outside"
        self.study._storage.set_trial_user_attr(frozen._trial_id, REASON, reason)
        self.study.tell(number, state=TrialState.FAIL)

    def _is_stale(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get(WORKER)
        if worker is None:  # claimed by someone who died inside `claim`, whose lock we hold now
            return True
        return worker["host"] == platform.node() and not is_held(self._dir / WORKERS / worker["lock"])

    def _requeue(self, number: int, reason: str, tries: int = 1) -> None:
        frozen = self.study.get_trials(deepcopy=False)[number]
        storage = self.study._storage  # `Study` has no public way to annotate a trial of a dead process
        storage.set_trial_user_attr(frozen._trial_id, INTERRUPTED, True)
        storage.set_trial_user_attr(frozen._trial_id, REASON, reason)
        self.study.tell(number, state=TrialState.FAIL)
        kept = {
            name: value for name, value in frozen.user_attrs.items() if name in ("cell", "overrides", "is_baseline")
        }
        self.study.enqueue_trial(
            dict(frozen.params) or _asked(frozen), user_attrs={**kept, "retry_of": number, TRIES: tries}
        )


def _asked(trial: FrozenTrial) -> dict[str, Any]:
    fixed = trial.system_attrs.get("fixed_params")
    return dict(trial.params) or dict(fixed or {})
