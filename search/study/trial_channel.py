"""The line between a running trial and its Optuna study: progress, pruning, admission, and the wish to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from search.channel import Channel, Infeasible, InFlight, Pruned
from search.ledger.index import Index
from search.ledger.paths import STATE_FILE, trial_subdir
from search.ledger.result import RESULT_FILE, read_result
from search.study.claims import Desk
from search.study.marks import BASELINE, FOLDER, INTERRUPTED, REASON, RUNS, SKIPPED, TRIES
from search.study.plan import Plan
from search.study.sampling.constraints import Constraint
from search.study.sampling.pruning import Pruning

__all__ = ["StudyChannel"]


class StudyChannel(Channel):
    """What one run of a trial may ask of its study.

    Args:
        trial: of the study; it has one run for each of `plan.seeds_per_trial` seeds.
        seed: of this run.
        index: finished runs of all studies; None where other studies are not to be looked at.
        stop: tells whether the user wants the running trials to stop.
    """

    def __init__(
        self,
        trial: Trial,
        plan: Plan,
        seed: int,
        desk: Desk,
        pruning: Pruning,
        index: Index | None,
        stop: Callable[[], bool],
    ) -> None:
        baseline = bool(trial.user_attrs.get(BASELINE))
        super().__init__(plan.study_name, trial.number, plan.phase, baseline, plan.study_dir)
        self.attempt = int(trial.user_attrs.get(TRIES, 1))
        self.resume_from = _saved(desk, trial, plan, seed)
        self.costs = tuple(constraint.name for constraint in plan.constraints)
        self.reused = False
        self.skip: str | None = None
        self._trial, self._plan, self._desk = trial, plan, desk
        self._pruning, self._index, self._stop, self._seed = pruning, index, stop, seed

    def report(self, step: int, value: float) -> None:
        """Tell the pruner, unless it compares seeds instead of epochs."""
        if self._plan.seeds_per_trial == 1:
            self._pruning.report(self._trial, step, value)

    def should_prune(self) -> bool:
        """Ask the study's pruner."""
        return self._plan.seeds_per_trial == 1 and self._pruning.should_prune(self._trial)

    def note(self, name: str, value: Any) -> None:
        """Store the fact as a user attribute of the trial."""
        super().note(name, value)
        self._trial.set_user_attr(name, value)

    def stop_requested(self) -> bool:
        """Whether to save the trial's state and stop."""
        return self._stop()

    def admit(self, fingerprint: str, facts: Mapping[str, Any]) -> str | None:
        """Refuse what breaks a constraint or is being trained elsewhere; find an earlier result of the same run."""
        self._refuse(facts, self._plan.constraints)
        finished = self._finished_attempt(fingerprint)
        if finished is not None:
            self.reused = True
            return str(finished)
        with self._desk.lock():
            found = None if self._plan.reuse == "none" else self._in_study(fingerprint)
            if found is None:
                subdir = self._trial.user_attrs.get(FOLDER)
                runs = self._trial.user_attrs.get(RUNS, {})
                self._trial.set_user_attr(RUNS, {**runs, fingerprint: subdir})
        if found is None and self._index is not None:
            found = self._index.find(fingerprint, needs_test=self.phase == "final")
        if found is None:
            return None
        self.reused = True
        return str(found)

    def standing(self) -> str:
        """Trials done, and the best so far."""
        trials = self._desk.trials()
        now = self._desk.counts()
        text = f"{now.finished}/{self._plan.quota.budget} done"
        words = ((now.pruned, "pruned"), (now.failed, "failed"), (now.skipped, "skipped"))
        text += "".join(f", {n} {word}" for n, word in words if n)
        done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if done and len(self._plan.directions) == 1 and self._plan.phase == "search":
            pick = max if self._plan.directions[0] == "maximize" else min
            best = pick(done, key=lambda trial: float(trial.values[0]))
            text += f", best {best.values[0]:.4g} ({best.user_attrs.get('arm', f'trial {best.number}')})"
        return text

    def _refuse(self, facts: Mapping[str, Any], constraints: tuple[Constraint, ...]) -> None:
        broken = [text for constraint in constraints if (text := constraint.violation(facts))]
        if broken:
            self.skip = "infeasible"
            raise Infeasible(f"infeasible: {'; '.join(broken)}")

    def _finished_attempt(self, fingerprint: str) -> Path | None:
        """The result of an earlier attempt whose worker died after writing it, and before telling the study."""
        assert self.study_dir is not None
        for attempt in self._desk.attempts(self._trial):
            path = Path(self.study_dir) / attempt.user_attrs.get(RUNS, {}).get(fingerprint, "-") / RESULT_FILE
            if _is_ok(path):
                return path
        return None

    def _in_study(self, fingerprint: str) -> Path | None:
        """The result of the same run in this study; raises where there can be none."""
        assert self.study_dir is not None
        same = [
            trial
            for trial in self._desk.trials()
            if fingerprint in trial.user_attrs.get(RUNS, {})
            and trial.number != self.number
            and not trial.user_attrs.get(INTERRUPTED)
        ]
        for trial in same:
            if trial.state == TrialState.COMPLETE:
                path = Path(self.study_dir) / trial.user_attrs[RUNS][fingerprint] / RESULT_FILE
                if _is_ok(path):
                    return path
        self._refuse_known(same)
        return None

    def _refuse_known(self, same: list[FrozenTrial]) -> None:
        for trial in same:
            if trial.state == TrialState.RUNNING:
                self.skip = "in flight"
                raise InFlight(f"trial {trial.number} is training the same network now")
            if trial.state == TrialState.PRUNED and not trial.user_attrs.get(SKIPPED):
                self.skip = "pruned before"
                raise Pruned(f"the same network was pruned as trial {trial.number}")
        failed = [trial for trial in same if trial.state == TrialState.FAIL and not trial.user_attrs.get(SKIPPED)]
        if len(failed) > self._plan.quota.max_retries:
            self.skip = "failed before"
            reason = failed[-1].user_attrs.get(REASON, "no reason known")
            raise Infeasible(
                f"the same network failed {len(failed)} times, last as trial {failed[-1].number}: {reason}"
            )


def _is_ok(path: Path) -> bool:
    """Whether a sound result of a finished run stands there; one that was lost since is none."""
    try:
        return read_result(path).status == "ok"
    except ValueError:
        return False


def _saved(desk: Desk, trial: Trial, plan: Plan, seed: int) -> str | None:
    """The folder of the latest earlier attempt at this run that left a state to go on from."""
    for attempt in desk.attempts(trial):
        folder = Path(plan.study_dir) / trial_subdir(plan.phase, attempt.number, seed)
        if (folder / STATE_FILE).exists():
            return str(folder)
    return None
