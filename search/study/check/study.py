"""All checks of one study, in the order in which they can be mended: its storage, each trial and its folder, its tables.

And what dead processes left.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.ledger.files import NewerVersion, is_temporary, refuse_newer, write_atomic
from search.ledger.record import state_fault, weights_fault
from search.ledger.result import RESULT_FILE, Phase, has_checksum, read_result
from search.ledger.study_files import ASIDE, WORKERS
from search.report.write import write_tables
from search.study.check.rebuild import FINAL, named_in, read_recipe, rebuild, storage_in, unknown_folders
from search.study.identity import REBUILT, current_name
from search.study.liveness import GRACE_SECONDS, STUDY_FOLDER, TOKEN_FILE, folder_of, host_id, read_token
from search.study.queue import Budget, TrialQueue
from search.study.recovery import Lost, close_record, find_lost, put_aside, runs_of, write_anew
from search.study.storage.journal import BadLine, first_bad_line, names_of_studies, writing
from search.study.storage.opening import journal_of, open_storage
from search.study.storage.waiting import is_held
from search.study.trials import RETRY_OF, SKIPPED

AGAIN = "it is written down again, and the study's command trains it"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or, as a note, that a reader wants to know.

    Attributes:
        what: where and what, in one line.
        mend: what `--repair` does about it; None where nothing can be done.
        repair: does it; None where the study's command does, or nobody can.
        note: it is nothing wrong.
    """

    what: str
    mend: str | None = None
    repair: Callable[[], object] | None = None
    note: bool = False


def leftover_findings(root: Path) -> Iterator[Finding]:
    """Temporary files of killed writers anywhere below `root`, and what dead workers left in `workers/`."""
    for folder, inside, names in os.walk(root):
        inside[:] = [name for name in inside if name not in (ASIDE, "wandb")]
        for name in sorted(filter(is_temporary, names)):
            path = Path(folder) / name
            yield Finding(f"{path.relative_to(root)}: a file that was never finished", "removed", path.unlink)
    living = living_workers(root)
    for path in sorted(set((root / WORKERS).glob("[!.]*.lock")) - living):
        yield Finding(f"{path.relative_to(root)}: the lock of a worker that is dead", "removed", path.unlink)
    if not living:
        for path in sorted([*(root / WORKERS).glob(".stop-*"), *(root / WORKERS).glob(".probe-*")]):
            yield Finding(f"{path.relative_to(root)}: left by a command that has ended", "removed", path.unlink)


def living_workers(root: Path) -> set[Path]:
    """The lock files of workers that live: held on this machine, or touched of late on another."""

    def lives(path: Path) -> bool:
        here = path.name.startswith(f"{host_id()}-")
        return is_held(path) if here else time.time() - path.stat().st_mtime <= GRACE_SECONDS

    return {path for path in (root / WORKERS).glob("[!.]*.lock") if lives(path)}


FACTS = ("arm", "arch_hash", "recipe_hash", "is_baseline", "n", "missing", "mean", "sd", "diff", "params", "macs")
TABLE, SOURCES, SCHEMA = "ablation.csv", "ablation.provenance.json", 1


def table_findings(root: Path) -> Iterator[Finding]:
    """What is wrong with `tables/`; nothing before a study has written them for the first time."""
    folder = root / "tables"
    if not folder.is_dir():
        return
    try:
        refuse_newer(folder, "schema", json.loads((folder / SOURCES).read_text(encoding="utf-8"))["schema"], SCHEMA)
    except NewerVersion as error:
        yield Finding(str(error))
        return
    except (OSError, ValueError, KeyError, TypeError):
        pass  # written anew below, where it is not what it should be
    with tempfile.TemporaryDirectory() as scratch:
        try:
            write_tables(root, Path(scratch))
        except ValueError as error:
            yield Finding(f"tables/: cannot be made anew: {error}")
            return
        same = _agree(_rows(folder / TABLE), _rows(Path(scratch) / TABLE))
    if not same:
        yield Finding(
            f"tables/{TABLE}: not what the ledger makes now",
            "the tables are written anew",
            functools.partial(write_tables, root),
        )


def _rows(path: Path) -> list[dict[str, str]] | None:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return None


def _agree(told: list[dict[str, str]] | None, made: list[dict[str, str]] | None) -> bool:
    """Whether two tables agree in what the ledger says; what is reckoned from it may differ between versions."""
    if told is None or made is None or len(told) != len(made):
        return False
    return all(old.get(name) == new.get(name) for old, new in zip(told, made, strict=True) for name in FACTS)


def journal_findings(root: Path, spec: str | None, name: str) -> Iterator[Finding]:
    """What is wrong with the journal's file; nothing for a database."""
    journal = journal_of(spec, root)
    if journal is None:
        return
    if not journal.is_file():
        # as every command does that opens it
        yield Finding(f"{journal.name} is gone", "written anew from the ledger", lambda: open_storage(spec, root))
        return
    bad = first_bad_line(journal)
    if bad is not None and bad.newer:
        yield Finding(f"{journal.name}, line {bad.number}: {bad.why}; update optuna")
        return
    if bad is not None and bad.torn:
        yield Finding(
            f"{journal.name}, line {bad.number}: {bad.why}",
            "cut off; its writer was never told that it stands",
            functools.partial(_cut, root, journal, bad),
        )
    elif bad is not None:
        yield Finding(
            f"{journal.name}, line {bad.number}: {bad.why}; nothing after it can be read",
            f"cut there, the rest kept below {ASIDE}/; trials that the ledger holds are written in again",
            functools.partial(_cut, root, journal, bad),
        )
    names = {each.partition("~")[0].removesuffix(FINAL) for each in names_of_studies(journal)}
    if spec is None and bad is None and names and name not in names:
        yield Finding(
            f"{journal.name} is that of {', '.join(sorted(names))}, not of {name}",
            f"moved below {ASIDE}/, and written anew from the ledger",
            functools.partial(put_aside, journal, root),
        )


def known_findings(root: Path, storage: BaseStorage, name: str, has_ledger: bool) -> Iterator[Finding]:
    """Whether the storage knows the study, in this folder."""
    found = [each for each in storage.get_all_studies() if each.study_name in (name, name + FINAL)]
    known, has_final = {each.study_name for each in found}, (root / "final").is_dir()
    wanted = [name] if not known and ((root / "trials").is_dir() or not has_final) else []
    wanted += [name + FINAL] if has_final and name + FINAL not in known else []
    yield from _token_findings(
        root, name, {e.study_name: e.user_attrs[STUDY_FOLDER] for e in found if STUDY_FOLDER in e.user_attrs}
    )
    if has_ledger and wanted:
        yield _unknown(root, storage, wanted)


def _token_findings(root: Path, name: str, folders: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """Whether the folder is the one that the storage knows.

    Args:
        folders: study -> what it says of its folder.
    """
    if not folders:
        return
    there, here = next(iter(folders.values())), _token(root)
    if here is None:
        yield Finding(
            f"{TOKEN_FILE}, which ties the folder to its storage, is gone or damaged",
            "written anew from the storage",
            lambda: write_atomic(root / TOKEN_FILE, json.dumps({"token": there["token"], "studies": list(folders)})),
        )
    elif here["token"] != there["token"]:
        yield Finding(
            f"the storage knows {name} in another folder, {there['path']} on {there['host']}: it is another study's "
            "storage, or the folder is a copy; give --storage, or check the other folder"
        )


def _unknown(root: Path, storage: BaseStorage, wanted: list[str]) -> Finding:
    try:
        directions = read_recipe(root).directions
    except ValueError as error:
        return Finding(f"the storage does not know {' and '.join(wanted)}, and {error}: it cannot be written anew")
    return Finding(
        f"the storage does not know {' and '.join(wanted)}",
        "written into it from the ledger",
        lambda: _create(root, storage, wanted, directions),
    )


def _create(root: Path, storage: BaseStorage, wanted: list[str], directions: tuple[str, ...]) -> None:
    here = _token(root) or {"token": secrets.token_hex(8), "studies": wanted[:1]}
    write_atomic(root / TOKEN_FILE, json.dumps(here))
    for number, name in enumerate(wanted):
        study = optuna.create_study(study_name=name, storage=storage, directions=list(directions))  # type: ignore[arg-type]
        study.set_user_attr(REBUILT, True)
        if number == 0 and name in here["studies"]:
            study.set_user_attr(STUDY_FOLDER, folder_of(here["token"], root))


def _cut(root: Path, journal: Path, bad: BadLine) -> None:
    rest = journal.read_bytes()[bad.offset :]
    (root / ASIDE).mkdir(exist_ok=True)
    write_atomic(root / ASIDE / f"{journal.name}.from-line-{bad.number}.{secrets.token_hex(3)}", rest)
    with writing(journal) as handle:
        os.ftruncate(handle, bad.offset)


def _token(root: Path) -> dict[str, Any] | None:
    try:
        found = read_token(root)
        return found if found and isinstance(found["token"], str) and isinstance(found["studies"], list) else None
    except (OSError, ValueError, KeyError):
        return None


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
        running = (trial for trial in self._trials if trial.state == TrialState.RUNNING)
        dead = next(filter(self._queue.is_stale, running), None)
        if dead is not None:  # one recovery takes all of them back
            yield Finding(
                f"{self._phase} trial {dead.number}: the storage says it runs, and its worker is dead",
                "it is taken back, and the study's command runs it again",
                lambda: self._queue.recover(functools.partial(close_record, self._root, self._name, self._phase)),
            )
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
