"""How a study stands: counted once for each trial that has ended, so that trial 5000 costs what trial 100 did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from search.study.marks import INTERRUPTED, RETRY_OF, SKIPPED

__all__ = ["Counts", "Tally", "count"]


@dataclass(frozen=True)
class Counts:
    """How a study stands. `finished` counts each trial that came to an end of its own: complete, pruned or failed.

    Interrupted trials, and failed or lost ones that are run again, are in none of the numbers. Skipped ones needed no training
    (reused, infeasible), so they are no part of the budget.
    """

    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int
    skipped: int = 0

    @property
    def finished(self) -> int:
        """Trials that count towards the budget."""
        return self.complete + self.pruned + self.failed


class Tally:
    """Counts the trials of one study, and looks at each ended one once.

    Attributes:
        streak: how many of the latest ended trials in a row were skipped.
    """

    def __init__(self) -> None:
        self.streak = 0
        self._next = 0
        self._pruned = self._skipped = 0
        self._complete: set[int] = set()
        self._failed: set[int] = set()
        self._interrupted: set[int] = set()
        self._superseded: set[int] = set()
        self._points: set[tuple[tuple[str, object], ...]] = set()
        self._open: list[FrozenTrial] = []

    def read(self, trials: Sequence[FrozenTrial]) -> Counts:
        """Count `trials`: all of the study's, in the order of their numbers."""
        while self._next < len(trials) and trials[self._next].state.is_finished():
            self._settle(trials[self._next])
            self._next += 1
        self._open = list(trials[self._next :])
        return self.counts

    @property
    def counts(self) -> Counts:
        """As of the last `read`."""
        late = Tally()
        late._superseded = set(self._superseded)
        again = {trial.user_attrs.get(RETRY_OF) for trial in self._open}
        running = waiting = 0
        for trial in self._open:
            if trial.state.is_finished():
                late._settle(trial)
            elif RETRY_OF in trial.user_attrs:
                late._superseded.add(trial.user_attrs[RETRY_OF])
            running += trial.state == TrialState.RUNNING
            waiting += trial.state == TrialState.WAITING
        return Counts(
            complete=len(self._complete)
            + len(late._complete)
            - len(again & self._complete)
            - len(again & late._complete),
            pruned=self._pruned + late._pruned,
            failed=len((self._failed | late._failed) - late._superseded),
            running=running,
            waiting=waiting,
            skipped=self._skipped + late._skipped,
        )

    @property
    def open(self) -> list[FrozenTrial]:
        """The first trial that had not ended, and all after it; as of the last `read`."""
        return self._open

    @property
    def interrupted(self) -> list[int]:
        """Numbers of interrupted trials that nobody has written down again; as of the last `read`."""
        ended = {
            trial.number for trial in self._open if trial.state.is_finished() and trial.user_attrs.get(INTERRUPTED)
        }
        again = {trial.user_attrs.get(RETRY_OF) for trial in self._open}
        return sorted((self._interrupted | ended) - self._superseded - again)

    @property
    def waiting(self) -> bool:
        """Whether a trial waits for a worker."""
        return any(trial.state == TrialState.WAITING for trial in self._open)

    @property
    def points(self) -> int:
        """Distinct sets of parameters that were asked for."""
        return len(self._points | {_point(trial) for trial in self._open if trial.params})

    def _settle(self, trial: FrozenTrial) -> None:
        attributes = trial.user_attrs
        if RETRY_OF in attributes:
            self._superseded.add(attributes[RETRY_OF])
            self._complete.discard(attributes[RETRY_OF])  # its result was lost
        if trial.params:
            self._points.add(_point(trial))
        if attributes.get(INTERRUPTED):
            self._interrupted.add(trial.number)
            return
        if attributes.get(SKIPPED):
            self._skipped += 1
            self.streak += 1
            return
        self.streak = 0
        if trial.state == TrialState.COMPLETE:
            self._complete.add(trial.number)
        elif trial.state == TrialState.PRUNED:
            self._pruned += 1
        else:
            self._failed.add(trial.number)


def _point(trial: FrozenTrial) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(trial.params.items()))


def count(trials: Sequence[FrozenTrial]) -> Counts:
    """Count the trials of a study, all of them."""
    return Tally().read(trials)
