"""A study under whatever its workers may meet, in any order: each run is trained once, counted, and kept."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from optuna.trial import FrozenTrial, Trial, TrialState

from search.channel import Infeasible, InFlight, Pruned
from search.ledger.result import RESULT_FILE, Status, TrialResult, write_result
from search.ledger.study_files import WORKERS, free_subdir
from search.study.queue import Budget, TrialQueue
from search.study.recovery import mend_lost, recover
from search.study.sampling.samplers import Pruning
from search.study.storage.waiting import FileLock
from search.study.trial_channel import Runs, StudyChannel
from search.study.trials import AWAITS, FOLDER, REASON, RETRY_OF, SKIPPED

from .test_spec import spec as plan_of

POINTS = 3
PICK = st.integers(0, 5)
MOST = 5  # trials that are ever asked for: more than there are points


@dataclass
class Hand:
    """A worker: its lock, what it opened, and the trial it trains."""

    lock: FileLock
    queue: TrialQueue
    runs: Runs
    trial: Trial | None = None
    reads: str = ""  # the fingerprint of what it trains

    @property
    def name(self) -> str:
        return self.lock.path.name


class Life(RuleBasedStateMachine):
    """Workers of one study claim, train, die, are recovered; the study grows, loses results and is resumed."""

    def __init__(self) -> None:
        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.root = Path(tempfile.mkdtemp())
        self.folder = self.root / "runs" / "s"
        (self.folder / WORKERS).mkdir(parents=True)
        self.storage = optuna.storages.InMemoryStorage()
        sampler = optuna.samplers.RandomSampler(seed=0)
        self.study = optuna.create_study(study_name="s", storage=self.storage, sampler=sampler, direction="maximize")
        self.budget, self.count = 3, 0
        self.living: list[Hand] = []
        self.trained: Counter[str] = Counter()  # trainings that came to their end, and whose results are there
        self.lost: set[str] = set()  # trained again, or taken over from a copy
        self.kept: dict[Path, bytes] = {}

    # what the workers do

    @rule()
    @precondition(lambda self: self.idle or len(self.living) < 3)
    def work(self) -> None:
        """Claim a trial, and begin to train unless its result is there, or it is being trained."""
        self._claim(self.idle[0] if self.idle else self._hire())

    @rule(pick=PICK)
    @precondition(lambda self: self.busy)
    def finish(self, pick: int) -> None:
        self._finish(self.busy[pick % len(self.busy)])

    @rule(pick=PICK, status=st.sampled_from(["failed", "pruned"]))
    @precondition(lambda self: self.busy)
    def end_badly(self, pick: int, status: Status) -> None:
        hand, trial = self._written(pick, status)
        trial.set_user_attr(REASON, f"no luck in trial {trial.number}")
        self.study.tell(trial, state=TrialState.FAIL if status == "failed" else TrialState.PRUNED)
        hand.trial = None

    @rule(pick=PICK)
    @precondition(lambda self: self.busy)
    def stop(self, pick: int) -> None:
        """The user's Ctrl-C."""
        hand, trial = self._written(pick, "interrupted")
        hand.queue.interrupt(trial, "stopped")
        hand.trial = None

    @rule(pick=PICK, status=st.sampled_from([None, "ok"]))
    @precondition(lambda self: self.busy)
    def die(self, pick: int, status: Status | None) -> None:
        """SIGKILL, in the middle or between the result and the word to the study; sometimes somebody sees it."""
        hand = self.busy[pick % len(self.busy)]
        if status is not None:
            self._write(hand, status)
        self._bury(hand)

    # what happens to the study

    @rule()
    def take_back(self) -> None:
        recover(self._queue(), self._plan())

    @rule(more=st.integers(1, 2))
    @precondition(lambda self: self.budget < MOST)
    def grow(self, more: int) -> None:
        self.budget = min(MOST, self.budget + more)
        for hand in self.living:
            hand.queue.budget = self._quota()

    @rule(pick=PICK)
    @precondition(lambda self: self.kept)
    def lose(self, pick: int) -> None:
        """A finished result is lost, and the command of the study finds that; nobody trains meanwhile."""
        if any(trial.state == TrialState.RUNNING for trial in self.study.get_trials(deepcopy=False)):
            return
        path = sorted(self.kept)[pick % len(self.kept)]
        lost = json.loads(self.kept.pop(path))["fingerprint"]
        path.unlink()
        del self.trained[lost]
        self.lost.add(lost)
        mend_lost(self._queue(), self._plan())

    @property
    def idle(self) -> list[Hand]:
        return [hand for hand in self.living if hand.trial is None]

    @property
    def busy(self) -> list[Hand]:
        return [hand for hand in self.living if hand.trial is not None]

    # what is always so

    @invariant()
    def nobody_trains_twice(self) -> None:
        assert all(times == 1 for times in self.trained.values()), self.trained
        assert all(path.read_bytes() == content for path, content in self.kept.items())

    @invariant()
    def the_budget_is_kept(self) -> None:
        now = self._queue().counts()
        assert now.finished + now.running + now.waiting <= self.budget, now

    @invariant()
    def folders_are_not_shared(self) -> None:
        folders = [trial.user_attrs.get(FOLDER) for trial in self.study.get_trials(deepcopy=False)]
        used = [folder for folder in folders if folder is not None]
        assert len(used) == len(set(used))

    def teardown(self) -> None:
        """Everybody dies; one worker resumes the study, and brings it to its end."""
        for hand in list(self.living):
            self._bury(hand)
        recover(self._queue(), self._plan())
        hand = self._hire()
        while self._claim(hand):
            if hand.trial is not None:
                self._finish(hand)
        assert not hand.queue.holds
        self._bury(hand)
        now = self._queue().counts()
        assert (now.running, now.waiting) == (0, 0)
        queue = self._queue()
        assert queue.counts().finished == self.budget or queue.is_exhausted()
        counted = [f"x={trial.params['x']}" for trial in self._standing() if SKIPPED not in trial.user_attrs]
        assert now.complete == len(counted) == len(set(counted))  # what is trained counts, and once
        assert set(self.trained) <= set(counted) <= set(self.trained) | self.lost
        self.nobody_trains_twice()
        assert all((self.folder / trial.user_attrs[FOLDER] / RESULT_FILE).exists() for trial in self._standing())
        shutil.rmtree(self.root)

    # how it is done

    def _quota(self) -> Budget:
        return Budget(self.budget, size=POINTS, max_retries=3)

    def _plan(self):  # type: ignore[no-untyped-def]
        return replace(plan_of(self.folder), budget=self._quota())

    def _queue(self) -> TrialQueue:
        return TrialQueue(self.study, self.storage, self.folder, self._quota())

    def _hire(self) -> Hand:
        lock = FileLock(self.folder / WORKERS / f"{self.count}.lock")
        lock.acquire()
        self.count += 1
        hand = Hand(lock, self._queue(), Runs(self.folder, lock.path.name, "all"))
        self.living.append(hand)
        return hand

    def _bury(self, hand: Hand) -> None:
        hand.lock.release()
        self.living.remove(hand)

    def _finish(self, hand: Hand) -> None:
        assert hand.trial is not None
        self.study.tell(hand.trial, self._write(hand, "ok"))
        hand.trial = None

    def _written(self, pick: int, status: Status) -> tuple[Hand, Trial]:
        hand = self.busy[pick % len(self.busy)]
        assert hand.trial is not None
        self._write(hand, status)
        return hand, hand.trial

    def _claim(self, hand: Hand) -> bool:
        trial = hand.queue.claim(hand.name, lambda waiting: not hand.runs.awaits(*waiting.user_attrs[AWAITS]))
        if trial is not None:
            self._begin(hand, trial)
        return trial is not None

    def _begin(self, hand: Hand, trial: Trial) -> None:
        hand.reads = f"x={trial.suggest_int('x', 0, POINTS - 1)}"
        there = trial.user_attrs.get(FOLDER) if AWAITS in trial.user_attrs else None
        trial.set_user_attr(FOLDER, there or free_subdir(self.folder, "search", trial.number, 0))
        (self.folder / trial.user_attrs[FOLDER]).mkdir(parents=True, exist_ok=True)
        channel = StudyChannel(trial, self._plan(), 0, hand.queue, Pruning(self.study, None), hand.runs, lambda: False)
        hand.trial = trial
        try:
            earlier = channel.admit(hand.reads, {})
        except InFlight:
            assert channel.awaited is not None
            hand.queue.put_back(trial, channel.awaited)
            hand.trial = None
        except (Infeasible, Pruned):
            assert channel.skip is not None
            trial.set_user_attr(SKIPPED, channel.skip)
            self._write(hand, "infeasible")
            self.study.tell(trial, state=TrialState.PRUNED)
            hand.trial = None
        else:
            if earlier is not None:
                self._write(hand, "ok", source="/".join(Path(earlier).parts[-4:-1]))
                if channel.reused:
                    trial.set_user_attr(SKIPPED, "reused")
                self.study.tell(trial, float(hand.reads[2:]))
                hand.trial = None

    def _write(self, hand: Hand, status: Status, source: str | None = None) -> float:
        assert hand.trial is not None
        value = float(hand.reads[2:])
        result = TrialResult(
            study="s", trial=hand.trial.number, phase="search", status=status, seed=0, metrics={"val_top1": value},
            fingerprint=hand.reads, reused_from=source,
        )  # fmt: skip
        path = write_result(self.folder / hand.trial.user_attrs[FOLDER], result)
        if status == "ok" and source is None:
            self.trained[hand.reads] += 1
            self.kept[path] = path.read_bytes()
        return value

    def _standing(self) -> list[FrozenTrial]:
        """The complete trials that nobody replaced."""
        trials = self.study.get_trials(deepcopy=False)
        replaced = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        return [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.number not in replaced]


Life.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLife = pytest.mark.slow(Life.TestCase)
