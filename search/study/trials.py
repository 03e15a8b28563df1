"""What a study writes on its trials, and how it stands: each trial is read until it has ended and then never again.

So trial 50,000 costs what trial 100 did.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

WORKER = "worker"  # {"host", "lock"} of the worker that runs it
INTERRUPTED = "interrupted"  # it could not finish, and another trial takes its place
FORGOTTEN = "forgotten"  # a SKIPPED trial: its storage had lost it, and it holds its number
SKIPPED = "skipped"  # why it needed no training: it does not count towards the budget
RETRY_OF = "retry_of"  # number of the trial that this one runs again
TRIES = "tries"  # how often it has been tried, this time included
RUNS = "runs"  # fingerprint -> run folder, for each run of the trial
AWAITS = "awaits"  # [fingerprint, place] of a run that is trained elsewhere, while the trial waits to take it over
SEEDS = "seeds"  # seed -> values and whether they were taken over, of a trial that has several
FOLDER = "run_dir"  # below the study's folder
REASON = "reason"
CELL, OVERRIDES, BASELINE = "cell", "overrides", "is_baseline"  # of a trial that was written down beforehand
IS_ROOT = "is_root"  # of a trial that others start from, so that its weights are kept
ROOT_FILE = "root_file"  # of weights that a training starts from
ROOT = "root"  # cell of the trial that this one's training starts from, so that it waits for that
LOOKED_AT = "looked_at"  # of a final trial of a design with looks: folder of the trial whose network it reads on test


Get = Callable[[int], FrozenTrial | None]
"""The trial of a number; None from the number on that the study does not have yet."""


@dataclass(frozen=True)
class Counts:
    """How a study stands. `finished` counts each trial that came to an end of its own: complete, pruned or failed.

    Interrupted trials, and failed or lost ones that are run again, are in none of the numbers. Skipped ones needed no
    training (reused, infeasible), so they are no part of the budget.
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
    """Counts the trials of one study.

    Waiting trials that start from one root, or from none, are claimed in the order of their numbers, so of those that were
    never claimed only the first is looked at; one that was claimed is looked at until it has ended.

    Attributes:
        streak: how many of the latest ended trials in a row were skipped.
    """

    def __init__(self) -> None:
        self.streak = 0
        self.settled: dict[
            str, FrozenTrial
        ] = {}  # cells that came to an end of their own, and are not run again, by name
        self._next = 0
        self._claimed: dict[int, FrozenTrial] = {}  # running, or waiting again
        self._waiting: dict[str | None, deque[FrozenTrial]] = {}  # never claimed, by the root that they wait for
        self._pruned = self._skipped = 0
        self._complete: set[int] = set()
        self._failed: set[int] = set()
        self._interrupted: set[int] = set()
        self._superseded: set[int] = set()
        self._points: set[tuple[tuple[str, object], ...]] = set()
        self.best: dict[bool, FrozenTrial] = {}  # the first with the highest (True) and lowest (False) first value

    def read(self, get: Get) -> Counts:
        """Count all trials of the study."""
        for number in sorted(self._claimed):
            self._look(get(number))
        for waiting in self._waiting.values():
            while waiting and not _is_unclaimed(trial := get(waiting[0].number)):
                waiting.popleft()
                self._look(trial)
        while (trial := get(self._next)) is not None:
            self._next += 1
            if RETRY_OF in trial.user_attrs:
                self._supersede(trial.user_attrs[RETRY_OF])
            if _is_unclaimed(trial):
                self._waiting.setdefault(trial.user_attrs.get(ROOT), deque()).append(trial)
            else:
                self._look(trial)
        return self.counts

    @property
    def counts(self) -> Counts:
        """As of the last `read`."""
        running = sum(trial.state == TrialState.RUNNING for trial in self._claimed.values())
        return Counts(
            complete=len(self._complete),
            pruned=self._pruned,
            failed=len(self._failed),
            running=running,
            waiting=sum(map(len, self._waiting.values())) + len(self._claimed) - running,
            skipped=self._skipped,
        )

    @property
    def running(self) -> list[FrozenTrial]:
        """The running trials, as of the last `read`."""
        return [trial for trial in self._claimed.values() if trial.state == TrialState.RUNNING]

    @property
    def interrupted(self) -> list[int]:
        """Numbers of interrupted trials that nobody has written down again; as of the last `read`."""
        return sorted(self._interrupted)

    @property
    def waiting(self) -> Iterator[FrozenTrial]:
        """The waiting trials in the order in which they are claimed: those that were claimed before come first.

        Without those whose root has not come to its end.
        """
        yield from (self._claimed[n] for n in sorted(self._claimed) if self._claimed[n].state == TrialState.WAITING)
        due = [waiting for root, waiting in self._waiting.items() if root is None or root in self.settled]
        yield from heapq.merge(*due, key=lambda trial: trial.number)

    @property
    def points(self) -> int:
        """Distinct sets of parameters that were asked for."""
        return len(self._points | {_point(trial) for trial in self._claimed.values() if trial.params})

    def _look(self, trial: FrozenTrial | None) -> None:
        assert trial is not None
        if trial.state.is_finished():
            self._claimed.pop(trial.number, None)
            self._settle(trial)
        else:
            self._claimed[trial.number] = trial

    def _supersede(self, number: int) -> None:
        """The trial is run again: it failed, was interrupted, or its result was lost."""
        self._superseded.add(number)
        self.settled = {cell: trial for cell, trial in self.settled.items() if trial.number != number}
        for numbers in (self._complete, self._failed, self._interrupted):
            numbers.discard(number)

    def _settle(self, trial: FrozenTrial) -> None:
        attributes = trial.user_attrs
        if trial.params:
            self._points.add(_point(trial))
        if CELL in attributes and not attributes.get(INTERRUPTED) and trial.number not in self._superseded:
            self.settled[attributes[CELL]] = trial
        if trial.state == TrialState.COMPLETE:
            for highest, sign in ((True, 1), (False, -1)):
                there = self.best.get(highest)
                if there is None or sign * trial.values[0] > sign * there.values[0]:
                    self.best[highest] = trial
        counts = trial.number not in self._superseded
        if attributes.get(INTERRUPTED):
            if counts:
                self._interrupted.add(trial.number)
            return
        if attributes.get(SKIPPED):
            self._skipped += 1
            self.streak += 1
            return
        self.streak = 0
        if trial.state == TrialState.PRUNED:
            self._pruned += 1
        elif counts:
            (self._complete if trial.state == TrialState.COMPLETE else self._failed).add(trial.number)


def _is_unclaimed(trial: FrozenTrial | None) -> bool:
    return trial is not None and trial.state == TrialState.WAITING and AWAITS not in trial.user_attrs


def _point(trial: FrozenTrial) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(trial.params.items()))


def in_list(trials: Sequence[FrozenTrial]) -> Get:
    """The trials of a list by their number."""
    return lambda number: trials[number] if number < len(trials) else None
