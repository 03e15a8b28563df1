"""What is wrong with a study's folder beside its trials: the storage, the tables, and what dead processes left."""

from __future__ import annotations

import csv
import functools
import json
import os
import platform
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from search.ledger.files import NewerVersion, is_temporary, refuse_newer, write_atomic
from search.ledger.paths import ASIDE, WORKERS
from search.report.write import write_tables
from search.study.check.rebuild import FINAL, read_recipe
from search.study.identity import REBUILT
from search.study.liveness import GRACE_SECONDS, LAYOUT, TOKEN_FILE, host_id
from search.study.recovery import put_aside
from search.study.storage.journal import BadLine, JournalLock, first_bad_line, names_of_studies
from search.study.storage.locks import is_held
from search.study.storage.opening import journal_of


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
    for path in sorted((root / WORKERS).glob("*.lock")):
        if not path.name.startswith(".") and path not in living:
            yield Finding(f"{path.relative_to(root)}: the lock of a worker that is dead", "removed", path.unlink)
    if not living:
        for path in sorted([*(root / WORKERS).glob(".stop-*"), *(root / WORKERS).glob(".probe-*")]):
            yield Finding(f"{path.relative_to(root)}: left by a command that has ended", "removed", path.unlink)


def living_workers(root: Path) -> set[Path]:
    """The lock files of workers that live: held on this machine, or touched of late on another."""
    found = set()
    for path in (root / WORKERS).glob("*.lock"):
        if path.name.startswith("."):
            continue
        here = path.name.startswith(f"{host_id()}-")
        if is_held(path) if here else time.time() - path.stat().st_mtime <= GRACE_SECONDS:
            found.add(path)
    return found


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


FOLDER = "folder"  # see liveness: token, and where the folder was when the study was created


def journal_findings(root: Path, spec: str | None, name: str) -> Iterator[Finding]:
    """What is wrong with the journal's file; nothing for a database."""
    journal = journal_of(spec, root)
    if journal is None:
        return
    if not journal.is_file():
        yield Finding(
            f"{journal.name} is gone", "written anew from the ledger", functools.partial(_begin_anew, root, journal)
        )
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
    if not found:
        wanted = [name] if (root / "trials").is_dir() or not (root / "final").is_dir() else []
        wanted += [name + FINAL] if (root / "final").is_dir() else []
        if has_ledger:
            yield _unknown(root, storage, name, wanted)
        return
    yield from _token_findings(
        root, name, {e.study_name: e.user_attrs[FOLDER] for e in found if FOLDER in e.user_attrs}
    )
    if has_ledger and (root / "final").is_dir() and all(each.study_name != name + FINAL for each in found):
        yield _unknown(root, storage, name, [name + FINAL])


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


def _unknown(root: Path, storage: BaseStorage, name: str, wanted: list[str]) -> Finding:
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
            place: dict[str, Any] = {
                "token": here["token"],
                "host": platform.node(),
                "path": str(root),
                "layout": LAYOUT,
            }
            study.set_user_attr(FOLDER, place)


def _begin_anew(root: Path, journal: Path) -> None:
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.touch()


def _cut(root: Path, journal: Path, bad: BadLine) -> None:
    with journal.open("rb") as file:
        file.seek(bad.offset)
        rest = file.read()
    (root / ASIDE).mkdir(exist_ok=True)
    write_atomic(root / ASIDE / f"{journal.name}.from-line-{bad.number}.{secrets.token_hex(3)}", rest)
    lock = JournalLock(journal)
    lock.acquire()
    try:
        with journal.open("rb+") as file:
            file.truncate(bad.offset)
    finally:
        lock.release()


def _token(root: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((root / TOKEN_FILE).read_text(encoding="utf-8"))
        return found if isinstance(found["token"], str) and isinstance(found["studies"], list) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
