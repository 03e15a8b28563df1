"""Whether the storage can be read, and is that of the folder; a journal is cut at its first bad line."""

from __future__ import annotations

import functools
import json
import platform
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from search.ledger.files import write_atomic
from search.ledger.paths import ASIDE
from search.study.check.finding import Finding
from search.study.check.recipe import FINAL, read_recipe
from search.study.identity import REBUILT
from search.study.liveness import LAYOUT, TOKEN_FILE
from search.study.lost import put_aside
from search.study.storage.journal_lines import BadLine, first_bad_line, names_of_studies
from search.study.storage.opening import JournalLock, journal_of

__all__ = ["journal_findings", "known_findings"]

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
