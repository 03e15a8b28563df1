"""The line between a running trial and its study: progress, pruning, what was trained already, and the wish to stop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from search.channel import Channel, Infeasible, InFlight, Pruned
from search.ledger.index import Index, Run
from search.ledger.record import seed_of
from search.ledger.result import RESULT_FILE, Phase, TrialResult, read_result, sound_result
from search.ledger.study_files import STATE_FILE, phase_folder, run_in_words
from search.study.liveness import host_id, is_alive
from search.study.options import Constraint
from search.study.queue import TrialQueue
from search.study.recovery import runs_of
from search.study.sampling.samplers import Pruning
from search.study.spec import StudySpec
from search.study.trials import BASELINE, FOLDER, IS_ROOT, LOOKED_AT, ROOT_FILE, RUNS, TRIES


class Runs:
    """What one worker may take over, and what it must not train beside others.

    Args:
        study_dir: folder of the worker's study; the other studies lie beside it.
        worker: name of the worker's lock file.
        reuse: whose runs count: "all" studies, this "study", or "none".
    """

    def __init__(self, study_dir: Path, worker: str, reuse: str) -> None:
        self._index = Index(study_dir.parent)
        self._dir, self._worker, self._reuse = study_dir, worker, reuse
        self._below = study_dir.name if reuse == "study" else None

    def locked(self) -> AbstractContextManager[Any]:
        """While inside, nobody begins a run in any of the studies."""
        return self._index.locked()

    def begin(self, fingerprint: str, subdir: str) -> None:
        """Write down that this worker now trains the run in `subdir` of its study."""
        self._index.begin(fingerprint, f"{self._dir.name}/{subdir}", host_id(), self._worker)

    def copy(self, fingerprint: str, subdir: str) -> None:
        """Write down that the run in `subdir` of this study takes over what another has trained."""
        self._index.copy(fingerprint, f"{self._dir.name}/{subdir}")

    def end(self) -> None:
        """Write down that this worker trains no more, whatever became of its run; a full disk is no reason to fail."""
        with contextlib.suppress(OSError), self._index.locked():
            self._index.end(host_id(), self._worker)

    def find(self, fingerprint: str, phase: Phase, unfit: Collection[str] = ()) -> Path | None:
        """The `result.json` of a finished run to take over."""
        if self._reuse == "none":
            return None
        return self._index.find(fingerprint, needs_test=phase == "final", below=self._below, unfit=unfit)

    def find_outdated(self, fingerprint: str, phase: Phase) -> Path | None:
        """The `result.json` of a finished run of the same settings that other code, images or versions made."""
        if self._reuse == "none":
            return None
        return self._index.find_outdated(fingerprint, needs_test=phase == "final", below=self._below)

    def in_flight(self, fingerprint: str) -> Run | None:
        """A run of that fingerprint that another worker is training now."""
        own = f"{self._below}/" if self._below else ""
        runs = (run for run in self._index.runs(fingerprint) if run.place.startswith(own))
        return next(filter(self._is_running, runs), None)

    def awaits(self, fingerprint: str, place: str) -> bool:
        """Whether the run at `place` is still being trained."""
        return any(run.place == place and self._is_running(run) for run in self._index.runs(fingerprint))

    def ended_badly(self, fingerprint: str, phase: Phase) -> list[TrialResult]:
        """The results of pruned and failed runs of that fingerprint in this phase of the study, in the order of the trials."""
        own = f"{self._dir.name}/{phase_folder(phase)}/"
        results = (self._index.result(run) for run in self._index.runs(fingerprint) if run.place.startswith(own))
        ended = [each for each in results if each is not None and each.status in ("pruned", "failed")]
        return sorted(ended, key=lambda each: each.trial)

    def _is_running(self, run: Run) -> bool:
        if run.host is None or run.lock is None or run.lock == self._worker or not self._index.is_latest(run):
            return False
        if self._index.result_file(run).exists():
            return False
        study = self._dir.parent / run.place.partition("/")[0]
        return is_alive(None, study, {"host": run.host, "lock": run.lock})


class StudyChannel(Channel):
    """What one run of a trial, on one of its seeds, may ask of its study.

    Args:
        runs: what was trained, and is being trained, by whom.
        stop: tells whether the user wants the running trials to stop.

    Attributes:
        began: whether the run was written down as one that is trained now.
        reused: whether the run took over what another trial had trained.
        skip: why the trial needs no training, where it is refused for that.
        awaited: [fingerprint, place] of the run that it was refused for, since that is being trained.
    """

    def __init__(
        self,
        trial: Trial,
        spec: StudySpec,
        seed: int,
        queue: TrialQueue,
        pruning: Pruning,
        runs: Runs,
        stop: Callable[[], bool],
    ) -> None:
        baseline = bool(trial.user_attrs.get(BASELINE))
        super().__init__(spec.study_name, trial.number, spec.phase, baseline, spec.study_dir)
        self.attempt = int(trial.user_attrs.get(TRIES, 1))
        self.resume_from = _saved(queue, trial, spec, seed)
        self.keeps_weights, self.ranks = spec.keeps_weights, spec.ranks
        looked_at = trial.user_attrs.get(LOOKED_AT)
        self.trained_in = None if looked_at is None else str(Path(spec.study_dir) / str(looked_at))
        root = queue.root_of(trial)
        self.root = trial.user_attrs.get(ROOT_FILE)
        if root is not None:
            self.root = str(Path(spec.study_dir) / str(root.user_attrs.get(FOLDER)))
        self.is_root = bool(trial.user_attrs.get(IS_ROOT))
        self.keeps_weights |= self.is_root
        self.costs = tuple(constraint.name for constraint in spec.constraints)
        self.began = self.reused = False
        self.skip: str | None = None
        self.awaited: list[str] | None = None
        self._trial, self._spec, self._queue = trial, spec, queue
        self._pruning, self._runs, self._stop, self._seed = pruning, runs, stop, seed
        self._fingerprint, self._unfit = "", set[str]()

    def report(self, step: int, value: float) -> None:
        """Tell the pruner, unless it compares seeds instead of epochs."""
        if self._spec.seeds_per_trial == 1:
            self._pruning.report(self._trial, step, value)

    def should_prune(self) -> bool:
        """Ask the study's pruner."""
        return self._spec.seeds_per_trial == 1 and self._pruning.should_prune(self._trial)

    def note(self, name: str, value: Any) -> None:
        """Store the fact as a user attribute of the trial."""
        super().note(name, value)
        self._trial.set_user_attr(name, value)

    def stop_requested(self) -> bool:
        """Whether to save the trial's state and stop."""
        return self._stop()

    def admit(self, fingerprint: str, facts: Mapping[str, Any]) -> str | None:
        """Refuse what breaks a constraint or is being trained elsewhere; find an earlier result of the same run."""
        self._refuse(facts, self._spec.constraints)
        self._fingerprint = fingerprint
        return self._next()

    def unfit(self, source: str) -> str | None:
        """Look for another result than `source`, and those named before."""
        self._unfit.add(source)
        return self._next()

    def outdated(self) -> str | None:
        """Ask the index of all studies, as far as their results count."""
        found = self._runs.find_outdated(self._fingerprint, self.phase)
        return None if found is None else str(found)

    def _refuse(self, facts: Mapping[str, Any], constraints: tuple[Constraint, ...]) -> None:
        broken = [text for constraint in constraints if (text := constraint.violation(facts))]
        if broken:
            self.skip = "infeasible"
            raise Infeasible(f"infeasible: {'; '.join(broken)}")

    def _next(self) -> str | None:
        """An earlier result, or None once the run is written down as one that is trained now."""
        folder, own = self._trial.user_attrs[FOLDER], self._finished_attempt()
        with self._queue.lock():
            with self._runs.locked():  # of all studies: no storage is asked inside, which may be away for long
                found = own or self._runs.find(self._fingerprint, self.phase, self._unfit)
                if found is None:
                    self._refuse_known()
                    self._runs.begin(self._fingerprint, folder)
                    self.began = True
                else:
                    self._runs.copy(self._fingerprint, folder)
            self._trial.set_user_attr(RUNS, {**self._trial.user_attrs.get(RUNS, {}), self._fingerprint: folder})
        self.reused = found is not None and not self._trained(found)
        return None if found is None else str(found)

    def _finished_attempt(self) -> Path | None:
        """The result of an earlier attempt whose worker died after writing it, and before telling the study."""
        for attempt in self._queue.attempts(self._trial):
            path = Path(self._spec.study_dir, attempt.user_attrs.get(RUNS, {}).get(self._fingerprint, "-"), RESULT_FILE)
            result = None if str(path) in self._unfit else sound_result(path)
            if result is not None and result.status == "ok":
                return path
        return None

    def _trained(self, found: Path) -> bool:
        """Whether an earlier attempt at this very trial trained what stands there."""
        study = Path(self._spec.study_dir)
        own = {
            f"{study.name}/{folder}"
            for attempt in self._queue.attempts(self._trial)
            for folder in attempt.user_attrs.get(RUNS, {}).values()
        }
        source = read_result(found).reused_from
        return (source or f"{found.parents[2].name}/{found.parents[1].name}/{found.parent.name}") in own

    def _refuse_known(self) -> None:
        """Raise where the run need not be trained, since it is now, or since it ended badly before."""
        if self._spec.reuse == "none":
            return
        running = self._runs.in_flight(self._fingerprint)
        if running is not None:
            self.awaited = [self._fingerprint, running.place]
            raise InFlight(f"{run_in_words(running.place, self.study_dir)} is training the same network now")
        ended = self._runs.ended_badly(self._fingerprint, self.phase)
        pruned = [result for result in ended if result.status == "pruned"]
        if pruned:
            self.skip = "pruned before"
            raise Pruned(f"the same network was pruned as trial {pruned[0].trial}")
        if len(ended) > self._spec.budget.max_retries:
            self.skip = "failed before"
            last = ended[-1]
            raise Infeasible(f"the same network failed {len(ended)} times, last as trial {last.trial}: {last.reason}")


def _saved(queue: TrialQueue, trial: Trial, spec: StudySpec, seed: int) -> str | None:
    """The folder of the latest earlier attempt at this run that left a state to go on from."""
    for attempt in queue.attempts(trial):
        for folder in (Path(spec.study_dir, subdir) for subdir in runs_of(attempt)):
            if seed_of(folder) == seed and (folder / STATE_FILE).exists():
                return str(folder)
    return None
