"""The runs of all studies beside this one, as one of its workers sees them: what is trained already, and what is now."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from search.ledger.index import Index, Run
from search.ledger.paths import phase_folder
from search.ledger.result import Phase, TrialResult
from search.study.liveness import host_id, is_alive

__all__ = ["Runs"]


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
        below = self._dir.name if self._reuse == "study" else None
        return self._index.find(fingerprint, needs_test=phase == "final", below=below, unfit=unfit)

    def find_outdated(self, fingerprint: str, phase: Phase) -> Path | None:
        """The `result.json` of a finished run of the same settings that other code, images or versions made."""
        if self._reuse == "none":
            return None
        below = self._dir.name if self._reuse == "study" else None
        return self._index.find_outdated(fingerprint, needs_test=phase == "final", below=below)

    def in_flight(self, fingerprint: str) -> Run | None:
        """A run of that fingerprint that another worker is training now."""
        own = f"{self._dir.name}/" if self._reuse == "study" else ""
        for run in self._index.runs(fingerprint):
            if run.place.startswith(own) and self._is_running(run):
                return run
        return None

    def awaits(self, fingerprint: str, place: str) -> bool:
        """Whether the run at `place` is still being trained."""
        return any(run.place == place and self._is_running(run) for run in self._index.runs(fingerprint))

    def ended_badly(self, fingerprint: str, phase: Phase) -> list[TrialResult]:
        """The results of pruned and failed runs of that fingerprint in this phase of the study, in the order of the trials."""
        own = f"{self._dir.name}/{phase_folder(phase)}/"
        found: list[TrialResult] = []
        for run in self._index.runs(fingerprint):
            result = self._index.result(run) if run.place.startswith(own) else None
            if result is not None and result.status in ("pruned", "failed"):
                found.append(result)
        return sorted(found, key=lambda each: each.trial)

    def _is_running(self, run: Run) -> bool:
        if run.host is None or run.lock is None or run.lock == self._worker or not self._index.is_latest(run):
            return False
        if self._index.result_file(run).exists():
            return False
        study = self._dir.parent / run.place.partition("/")[0]
        return is_alive(None, study, {"host": run.host, "lock": run.lock})
