"""How a phase of a study stands, in words: trials done and to go, the best so far, and what each worker trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from search.ledger.record import read_history
from search.report.words import duration
from search.study.queue import TrialQueue
from search.study.spec import StudySpec, final_spec, open_queue
from search.study.trials import RUNS, Counts


class Standing:
    """How a phase stands, and, where its workers go on with it, the re-evaluation after it.

    Args:
        spec: of the phase, which begins or goes on now.
        then: whether a re-evaluation may follow.
        clock: seconds, from anywhere.
    """

    def __init__(self, spec: StudySpec, then: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._then = final_spec(spec, 0) if then else None
        self._clock = clock
        self._begin(spec)

    def lines(self) -> list[str]:
        """A line on the study, and one for each running trial."""
        now = self._queue.counts()
        if self._then is not None and not now.running and self._follows(self._then):
            self._begin(self._then)
            self._then = None
            now = self._queue.counts()
        return [self._line(now), *(f"  {running(trial, self._spec)}" for trial in self._queue.running)]

    def _begin(self, spec: StudySpec) -> None:
        self._spec, self._queue = spec, open_queue(spec)  # its own: it counts in a thread of its own
        self._start, self._before = self._clock(), self._queue.counts().finished

    def _follows(self, final: StudySpec) -> bool:
        return self._queue.is_over() and final.optuna_name in optuna.get_all_study_names(self._queue.storage)

    def _line(self, now: Counts) -> str:
        spec = self._spec
        total = max(spec.budget.trials, now.finished + now.running + now.waiting)
        words = [f"{spec.phase}: {now.finished} of {total} trials done", f"{now.running} running"]
        more = ((now.pruned, "pruned"), (now.failed, "failed"), (now.skipped, "taken over or refused"))
        words += [f"{number} {word}" for number, word in more if number]
        ended, to_go = now.finished - self._before, total - now.finished
        if ended > 0 and to_go > 0:
            words.append(f"about {duration((self._clock() - self._start) / ended * to_go)} to go")
        best = best_so_far(self._queue, spec)
        return ", ".join([*words, best] if best else words)


def best_so_far(queue: TrialQueue, spec: StudySpec) -> str:
    """The best trial of a search by one objective, as of the last count; empty where there is none."""
    if len(spec.directions) != 1 or spec.phase != "search":
        return ""
    best = queue.best(spec.directions[0] == "maximize")
    return "" if best is None else f"best {best.values[0]:.4g} ({best.user_attrs.get('arm', f'trial {best.number}')})"


def running(trial: FrozenTrial, spec: StudySpec) -> str:
    """What is trained, for how long, and what its last epoch came to."""
    attributes = trial.user_attrs
    text = f"{spec.phase} {trial.number} [{attributes.get('arm', 'not built yet')}]"
    if trial.datetime_start is not None:
        text += f" for {duration((datetime.now() - trial.datetime_start).total_seconds())}"
    folders = [*attributes.get(RUNS, {}).values()]  # of its seeds, the one that is trained now the last
    epochs = len(read_history(Path(spec.study_dir) / folders[-1])) if folders else 0
    value = trial.intermediate_values.get(epochs)
    return text + (f", epoch {epochs}" if epochs else "") + ("" if value is None else f": {value:.4g}")
