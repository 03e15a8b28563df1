"""All checks of one study, in the order in which they can be mended: its storage, each trial and its folder, its tables."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.ledger.files import NewerVersion
from search.ledger.paths import ASIDE
from search.ledger.record import state_fault, weights_fault
from search.ledger.result import RESULT_FILE, Phase, has_checksum, read_result
from search.study.check.folder import (
    Finding,
    journal_findings,
    known_findings,
    leftover_findings,
    living_workers,
    table_findings,
)
from search.study.check.rebuild import FINAL, named_in, read_recipe, rebuild, storage_in, unknown_folders
from search.study.identity import current_name
from search.study.liveness import is_alive
from search.study.queue import Budget, TrialQueue
from search.study.recovery import Lost, close_record, find_lost, put_aside, runs_of, write_anew
from search.study.storage.opening import open_storage
from search.study.trials import RETRY_OF, SKIPPED, WORKER

AGAIN = "it is written down again, and the study's command trains it"


def alive(storage: BaseStorage, trials: Sequence[FrozenTrial], root: Path) -> list[FrozenTrial]:
    """The running trials whose worker lives."""
    running = [trial for trial in trials if trial.state == TrialState.RUNNING and trial.user_attrs.get(WORKER)]
    return [trial for trial in running if is_alive(storage, root, trial.user_attrs[WORKER], trial._trial_id)]


class PhaseCheck:
    """Checks one phase of a study.

    Args:
        root, name, phase: the study's folder and name, and which of its phases this is.
        study, storage: the phase in the storage.
    """

    def __init__(self, root: Path, name: str, phase: Phase, study: optuna.Study, storage: BaseStorage) -> None:
        self._root, self._name, self._phase = root, name, phase
        self._study, self._storage = study, storage
        self._queue = TrialQueue(study, storage, root, Budget(trials=0, sampled=False))
        self._trials = self._queue.trials()

    def findings(self) -> Iterator[Finding]:
        """What is wrong; what the ledger holds beyond the storage comes alone, for it gives trials their numbers."""
        try:
            beyond = list(self._beyond_the_storage())
            yield from beyond or self._known()
        except NewerVersion as error:
            yield Finding(f"{error}")

    def _known(self) -> Iterator[Finding]:
        living = {trial.number for trial in alive(self._storage, self._trials, self._root)}
        for trial in self._trials:
            if trial.state == TrialState.RUNNING and trial.number not in living:
                yield Finding(
                    f"{self._phase} trial {trial.number}: the storage says it runs, and its worker is dead",
                    "it is taken back, and the study's command runs it again",
                    lambda: self._queue.recover(functools.partial(close_record, self._root, self._name, self._phase)),
                )
                break  # one recovery takes all of them back
        lost = list(find_lost(self._trials, self._root, self._name, self._phase))
        lost += self._lost_weights({each.trial.number for each in lost})
        for each in lost:
            mend = AGAIN if each.again else "its result is written anew from what the storage knows"
            yield Finding(f"{self._place(each)}: {each.why}", mend, functools.partial(self._mend, each))
        yield from self._states()
        yield from self._strangers()
        yield from self._notes()

    def _mend(self, lost: Lost) -> None:
        def close(_: Sequence[FrozenTrial]) -> list[FrozenTrial]:
            write_anew(lost, self._root, self._name, self._phase)
            return [lost.trial] if lost.again else []

        self._queue.rerun(close)

    def _place(self, lost: Lost) -> str:
        return f"{lost.folder.relative_to(self._root)} ({self._phase} trial {lost.trial.number})"

    def _lost_weights(self, known: set[int]) -> list[Lost]:
        replaced = {trial.user_attrs.get(RETRY_OF) for trial in self._trials} | known
        found = []
        for trial in self._trials:
            if trial.state != TrialState.COMPLETE or trial.number in replaced or trial.user_attrs.get(SKIPPED):
                continue
            for folder in map(self._root.joinpath, runs_of(trial)):
                why = weights_fault(folder) if (folder / RESULT_FILE).is_file() else None
                if why is not None:
                    found.append(Lost(trial, folder, why, again=True))
        return found

    def _beyond_the_storage(self) -> Iterator[Finding]:
        unknown = unknown_folders(self._trials, self._root, self._phase)
        there = [
            folder
            for number, folders in unknown.items()
            for folder in folders
            if number >= len(self._trials)
            or (not self._trials[number].state.is_finished() and _ended(folder, self._name))
        ]
        if not there:
            return
        names = ", ".join(str(folder.relative_to(self._root)) for folder in there[:3])
        what = (
            f"{names}{', ...' if len(there) > 3 else ''}: the storage does not know of {len(there)} trial(s) that ended"
        )
        try:
            recipe = read_recipe(self._root)
        except ValueError as error:
            yield Finding(f"{what}, and {error}: they cannot be written into it")
            return
        yield Finding(
            what,
            "written into it from the ledger",
            lambda: rebuild(self._study, self._storage, self._root, self._name, self._phase, recipe),
        )

    def _strangers(self) -> Iterator[Finding]:
        """Folders under a number that the storage has given to another trial."""
        for folders in unknown_folders(self._trials, self._root, self._phase).values():
            for folder in folders:
                place = folder.relative_to(self._root)
                if _ended(folder, self._name):
                    yield Finding(
                        f"{place}: a trial that the storage has forgotten; it is kept, and a table counts each seed once",
                        note=True,
                    )
                elif (folder / RESULT_FILE).is_file():
                    yield Finding(
                        f"{place}: belongs to no trial of this study",
                        f"moved below {ASIDE}/",
                        functools.partial(put_aside, folder, self._root),
                    )

    def _states(self) -> Iterator[Finding]:
        for trial in self._trials:
            for folder in map(self._root.joinpath, runs_of(trial)):
                why = state_fault(folder)
                if why is not None:
                    yield Finding(
                        f"{folder.relative_to(self._root)}: {why}",
                        f"moved below {ASIDE}/; the trial starts anew",
                        functools.partial(put_aside, folder / "state.pt", self._root),
                    )

    def _notes(self) -> Iterator[Finding]:
        waiting = sum(trial.state == TrialState.WAITING for trial in self._trials)
        if waiting:
            yield Finding(f"{self._phase}: {waiting} trial(s) wait to be run by the study's command", note=True)
        bare = 0
        for trial in self._trials:
            for folder in map(self._root.joinpath, runs_of(trial)):
                try:
                    bare += not has_checksum(folder / RESULT_FILE)
                except ValueError:
                    continue
        if bare:
            yield Finding(
                f"{self._phase}: {bare} result(s) without a checksum, written before there were any: an edit would not be seen",
                note=True,
            )


def _ended(folder: Path, name: str) -> bool:
    try:
        result = read_result(folder / RESULT_FILE)
    except NewerVersion:
        raise
    except ValueError:
        return False
    return result.study == name and result.status != "interrupted"


PHASES: tuple[tuple[Phase, str], ...] = (("search", ""), ("final", FINAL))


def check_study(root: Path, spec: str | None = None) -> list[Finding]:
    """Everything that is wrong with the study in `root`; what stands in the way of more comes alone.

    Args:
        root: the study's folder, absolute.
        spec: its storage, as `open_storage` takes it; None for the one that its config names.

    Raises:
        ValueError: the folder holds no study, or its storage cannot be reached.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is no folder of a study; give runs/<study>")
    has_ledger = any(root.glob(f"*/*/{RESULT_FILE}")) or any(root.glob("trials/*-s*")) or any(root.glob("final/*-s*"))
    if not has_ledger and not any(root.glob("*.journal")) and not (root / "multirun.yaml").is_file():
        raise ValueError(f"{root} holds no study; give runs/<study>")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec, name = spec or storage_in(root), named_in(root)
    found = list(journal_findings(root, spec, name))
    if not found:
        storage = open_storage(spec, root, patience_seconds=0)
        found = list(known_findings(root, storage, name, has_ledger))
        if not found:
            found = list(_trials(root, storage, name))
    found += leftover_findings(root)
    if not any(finding.repair and not finding.note for finding in found):  # else the table is judged after the repair
        found += table_findings(root)
    return found


def refuse_running(root: Path) -> None:
    """Raise ValueError where a worker of the study lives: nothing is mended beneath it."""
    living = living_workers(root)
    if living:
        raise ValueError(f"{root}: the study is running ({len(living)} worker(s)); stop it, or wait for its end")


def _trials(root: Path, storage: BaseStorage, name: str) -> Iterator[Finding]:
    known = {each.study_name for each in storage.get_all_studies()}
    for phase, suffix in PHASES:
        if name + suffix in known:
            study = optuna.load_study(study_name=current_name(storage, name + suffix), storage=storage)
            yield from PhaseCheck(root, name, phase, study, storage).findings()
