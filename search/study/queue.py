"""Which trial a worker takes next, and what becomes of a trial that nobody runs any more.

Each trial is claimed once, under a lock that all workers of the study share, and a new one is made only while finished
and running ones are short of the budget. So the budget is exact with any number of workers, however often they die.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from search.ledger.result import RESULT_FILE, sound_result
from search.ledger.study_files import WORKERS
from search.study.liveness import host_id, is_alive
from search.study.storage.waiting import study_lock
from search.study.trials import (
    AWAITS,
    BASELINE,
    CELL,
    FOLDER,
    INTERRUPTED,
    IS_ROOT,
    LOOKED_AT,
    OVERRIDES,
    REASON,
    RETRY_OF,
    ROOT,
    ROOT_FILE,
    SKIPPED,
    TRIES,
    WORKER,
    Counts,
    Tally,
    in_list,
)

Close = Callable[[FrozenTrial, str, bool], None]  # a trial, why it ends, and whether it is run again

_NUMBERS = re.compile(r"\d+")  # one reason may name another address, or another number of bytes
# what makes a trial that was written down beforehand the trial it is
_KEPT = (CELL, OVERRIDES, BASELINE, LOOKED_AT, ROOT, ROOT_FILE, IS_ROOT)


@dataclass(frozen=True)
class Budget:
    """How many trials a phase of a study runs.

    Attributes:
        trials: that shall come to an end of their own.
        sampled: whether new trials are made up by a sampler; otherwise all are written down beforehand.
        max_skips: proposals in a row that need no training, after which the space counts as exhausted.
        size: points of the space where they can be counted.
        max_retries: how often a trial is run again that died with its worker, or that failed in a design.
        allowed_failures: trials that may fail before no more are handed out; None for any number.
    """

    trials: int
    sampled: bool = True
    max_skips: int = 200
    size: int | None = None
    max_retries: int = 2
    allowed_failures: int | None = None


class TrialQueue:
    """Where trials of one study are handed out and taken back.

    Attributes:
        gave_up: whether the last claim was refused because too many trials had failed.
        holds: whether the last claim was refused although trials wait, since what they wait for is not there yet.
    """

    def __init__(self, study: optuna.Study, storage: BaseStorage, study_dir: Path, budget: Budget) -> None:
        self.study, self.budget = study, budget
        self.storage, self._dir = storage, study_dir
        self._id = storage.get_study_id_from_name(study.study_name)
        self._tally = Tally()
        self.gave_up = self.holds = False
        (study_dir / WORKERS).mkdir(parents=True, exist_ok=True)

    def lock(self) -> AbstractContextManager[Any]:
        """Exclusive among all workers of the study, on all machines."""
        return study_lock(self.storage, self._dir, self.study.study_name)

    def trials(self) -> list[FrozenTrial]:
        """All trials as they stand, not to be changed."""
        return self.storage.get_all_trials(self._id, deepcopy=False)

    def counts(self) -> Counts:
        """How the study stands."""
        return self._tally.read(self._get if isinstance(self.storage, JournalStorage) else in_list(self.trials()))

    @property
    def running(self) -> list[FrozenTrial]:
        """The running trials, as of the last count."""
        return self._tally.running

    def best(self, highest: bool) -> FrozenTrial | None:
        """The complete trial with the highest, or lowest, first value; as of the last count."""
        return self._tally.best.get(highest)

    def to_go(self) -> int:
        """Trials that a worker could take now."""
        return self._to_go(self.counts())

    def is_over(self) -> bool:
        """Whether no trial runs, and none could be taken."""
        now = self.counts()
        return not (now.running or self._to_go(now))

    def _to_go(self, now: Counts) -> int:
        return max(now.waiting, 0 if self.is_exhausted() else self._owed(now))

    def is_exhausted(self) -> bool:
        """Whether the sampler proposes nothing any more that needs training; as of the last count."""
        return not self.budget.sampled or self.streak >= self.budget.max_skips or self.is_covered()

    def is_covered(self) -> bool:
        """Whether each point of a space that can be counted was asked for; as of the last count."""
        return bool(self.streak and self.budget.size and self._tally.points >= self.budget.size)

    @property
    def streak(self) -> int:
        """Proposals in a row that needed no training; as of the last count."""
        return self._tally.streak

    def claim(self, worker: str, is_due: Callable[[FrozenTrial], bool] = lambda _: True) -> Trial | None:
        """Take the next trial for `worker` (the name of its lock file), or None where there is none to take.

        Args:
            is_due: whether a trial that was put back, see `put_back`, may be taken now.
        """
        with self.lock():
            now = self.counts()
            self.gave_up = self.budget.allowed_failures is not None and now.failed > self.budget.allowed_failures
            self.holds = False
            if self.gave_up:
                return None
            who = {"host": host_id(), "lock": worker}
            trial = self._waiting(is_due)
            if trial is not None:
                trial.set_user_attr(WORKER, who)
                return trial
            if self.is_exhausted() or self._owed(now) <= 0:
                self.holds = now.waiting > 0
                return None
            # `Study.ask` would look through all trials for a waiting one
            made = create_trial(state=TrialState.RUNNING, user_attrs={WORKER: who})
            return Trial(self.study, self.storage.create_new_trial(self._id, made))

    def _waiting(self, is_due: Callable[[FrozenTrial], bool]) -> Trial | None:
        """The first waiting trial that is due, now running."""
        for frozen in self._tally.waiting:
            due = AWAITS not in frozen.user_attrs or is_due(frozen)
            if due and self.storage.set_trial_state_values(frozen._trial_id, TrialState.RUNNING):
                return Trial(self.study, frozen._trial_id)
        return None

    def put_back(self, trial: Trial, awaits: Sequence[str]) -> None:
        """Let a trial that was claimed wait again, as the one it is, for a run that another worker is training.

        Args:
            awaits: fingerprint and place of that run.
        """
        with self.lock():
            trial.set_user_attr(AWAITS, list(awaits))
            trial.set_user_attr(WORKER, None)
            self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def write(self, cells: Sequence[Mapping[str, Any]]) -> int:
        """Write down a waiting trial for each of `cells` (user attributes with a unique "cell"), once ever."""
        with self.lock():
            there = {trial.user_attrs.get(CELL) for trial in _standing(self.trials())}
            fresh = [cell for cell in cells if cell[CELL] not in there]
            for cell in fresh:
                self.study.enqueue_trial({}, user_attrs=dict(cell))
            return len(fresh)

    def write_points(self, points: Sequence[Mapping[str, Any]]) -> int:
        """Write down, in order and up to the budget, a waiting trial for each point of the space, once ever."""
        with self.lock():
            now = self.counts()
            seen = {_frozen(_asked(trial)) for trial in _standing(self.trials())}
            missing = self.budget.trials - now.finished - now.running - now.waiting
            fresh = [point for point in points if _frozen(point) not in seen][: max(0, missing)]
            for point in fresh:
                self.study.enqueue_trial(dict(point))
            return len(fresh)

    def suggest(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Let the first trials of a search be these points."""
        with self.lock():
            for point in points[: max(0, self._owed(self.counts()))]:
                self.study.enqueue_trial(dict(point))

    def interrupt(self, trial: Trial, reason: str, close: Close | None = None) -> None:
        """Take back a trial that was stopped from outside, and write the same one down again.

        Args:
            close: called with the trial before the study is told of it. Where it is given, this counts as one of the
                trial's tries: after `max_retries` of them it failed. A trial that the user stopped is not blamed.
        """
        with self.lock():
            self._take_back(self._frozen(trial.number), reason, close, again=close is None)

    def recover(self, close: Close) -> list[FrozenTrial]:
        """Take back the running trials whose worker is dead, and return them as they now stand.

        Each is written down again, unless it was the death of as many workers as `max_retries` allows: then it failed.
        What somebody who died in the middle of this had taken back, and not yet written down again, is written down now.

        Args:
            close: called with each trial before the study is told of it.
        """
        with self.lock():
            self.counts()
            for trial in self._left_out():
                self._again(trial, _tries(trial) + 1)
            stale = [trial for trial in self.running if self.is_stale(trial)]
            for frozen in stale:
                # it died between the result and the word to the study: run again, it takes its own result over
                result = sound_result(self._dir / frozen.user_attrs.get(FOLDER, "") / RESULT_FILE)
                trained = result is not None and result.status == "ok"
                self._take_back(frozen, "its worker died", close, trained, ": out of memory, or killed from outside")
            return [self._frozen(trial.number) for trial in stale]

    def _take_back(self, frozen: FrozenTrial, reason: str, close: Close | None, again: bool, hint: str = "") -> None:
        """Write a trial down again, or, where this was its last try and `again` is not given, let it fail."""
        tries = _tries(frozen)
        again = again or tries <= self.budget.max_retries
        if not again:
            reason = f"{reason}, {tries} times in a row{hint}"
        if close is not None:
            close(frozen, reason, again)
        if again:
            self.storage.set_trial_user_attr(frozen._trial_id, INTERRUPTED, True)
        self.storage.set_trial_user_attr(frozen._trial_id, REASON, reason)
        self.study.tell(frozen.number, state=TrialState.FAIL)
        if again:
            self._again(frozen, tries + (close is not None))

    def rerun(self, close_lost: Callable[[Sequence[FrozenTrial]], Sequence[FrozenTrial]]) -> None:
        """Write down again the finished trials that count for nothing any more.

        Args:
            close_lost: given all trials as they stand, under the study's lock, closes the records of those whose result is
                lost, and returns the trials that must be run again.
        """
        with self.lock():
            for frozen in {trial.number: trial for trial in close_lost(self.trials())}.values():
                self._again(frozen, tries=1)  # nobody is to blame

    def _left_out(self) -> list[FrozenTrial]:
        """Interrupted trials that nobody wrote down again, but for cells that stand elsewhere; as of the last count."""
        found = [self._frozen(number) for number in self._tally.interrupted]
        if not any(CELL in trial.user_attrs for trial in found):
            return found
        there = {trial.user_attrs.get(CELL) for trial in _standing(self.trials())} - {None}
        return [trial for trial in found if trial.user_attrs.get(CELL) not in there]

    def retry_failed(self, close: Callable[[FrozenTrial], None]) -> list[FrozenTrial]:
        """Write down again the failed trials of a design; return them. `close` is called with each before that."""
        with self.lock():
            chosen = self.to_retry()
            for frozen in chosen:
                close(frozen)
                self._again(frozen, _tries(frozen) + 1)
            return chosen

    def to_retry(self) -> list[FrozenTrial]:
        """The failed trials of a design that `retry_failed` would run again.

        Not those that were tried as often as `max_retries` allows, and not those that failed twice for one reason:
        they would again.
        """
        trials = self.trials()
        superseded = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        return [
            trial
            for trial in trials
            if trial.state == TrialState.FAIL
            and not trial.user_attrs.get(INTERRUPTED)
            and not trial.user_attrs.get(SKIPPED)
            and trial.number not in superseded
            and _tries(trial) <= self.budget.max_retries
            and not _failed_alike(trial, trials)
        ]

    def root_of(self, trial: Trial | FrozenTrial) -> FrozenTrial | None:
        """The ended trial that the training of `trial` starts from; None where it needs none. As of the last count."""
        root = trial.user_attrs.get(ROOT)
        return None if root is None else self._tally.settled.get(root)

    def attempts(self, trial: Trial | FrozenTrial) -> list[FrozenTrial]:
        """The earlier attempts at `trial`, the latest first."""
        found: list[FrozenTrial] = []
        number = trial.user_attrs.get(RETRY_OF)
        while number is not None:
            found.append(self._frozen(number))
            number = found[-1].user_attrs.get(RETRY_OF)
        return found

    def _owed(self, now: Counts) -> int:
        return self.budget.trials - now.finished - now.running - now.waiting if self.budget.sampled else 0

    def _get(self, number: int) -> FrozenTrial | None:
        """A journal is held in memory, where a trial costs nothing; a database answers best for all at once."""
        try:
            return self._frozen(number)
        except KeyError:
            return None

    def _frozen(self, number: int) -> FrozenTrial:
        return self.storage.get_trial(self.storage.get_trial_id_from_study_id_trial_number(self._id, number))

    def is_stale(self, trial: FrozenTrial) -> bool:
        """Whether nobody works any more on a trial that runs."""
        worker = trial.user_attrs.get(WORKER)
        if worker is None:  # claimed by someone who died inside `claim`, whose lock we hold now
            return True
        return not is_alive(self.storage, self._dir, worker, trial._trial_id)

    def _again(self, frozen: FrozenTrial, tries: int) -> None:
        kept = {name: value for name, value in frozen.user_attrs.items() if name in _KEPT}
        self.study.enqueue_trial(_asked(frozen), user_attrs={**kept, RETRY_OF: frozen.number, TRIES: tries})


def _tries(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get(TRIES, 1))


def _asked(trial: FrozenTrial) -> dict[str, Any]:
    return dict(trial.params) or dict(trial.system_attrs.get("fixed_params") or {})


def _frozen(point: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((name, (type(value).__name__, value)) for name, value in point.items()))


def _standing(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """All but the interrupted ones that nobody wrote down again, since whoever took them back died in the middle."""
    replaced = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    return [trial for trial in trials if not trial.user_attrs.get(INTERRUPTED) or trial.number in replaced]


def _failed_alike(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    before = trial.user_attrs.get(RETRY_OF)
    if before is None:
        return False
    one, other = (_NUMBERS.sub("#", each.user_attrs.get(REASON, "")) for each in (trial, trials[before]))
    return one == other
