"""What was changed between the commands of one study: written down when it happens, told under its tables.

`changes.jsonl` in the study's folder gets one line a command whose settings differ from those of the command before. Lines are only
ever added. More budget or more seeds are allowed, but a reader must know: a study that goes on until its result pleases finds
one by chance.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from search.ledger.result import RESULT_FILE
from search.ledger.secrets import masked_tree

__all__ = ["CHANGES_FILE", "Change", "note_settings", "read_changes"]

CHANGES_FILE = "changes.jsonl"
SEEDS = ("final.first_seed", "final.seeds", "design.first_seed", "design.seeds")


@dataclass(frozen=True)
class Change:
    """One command that changed something.

    Attributes:
        at: when, ISO 8601, UTC.
        changed: setting -> what it was, and what it is now.
        results: final results that were there.
        seeds_added: whether it asked for final seeds that the command before had not, while such results were there.
    """

    at: str
    changed: Mapping[str, tuple[Any, Any]]
    results: int
    seeds_added: bool


def note_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Compare settings with those of the last command, and add a line where they differ.

    Args:
        folder: the study's, which exists; nobody else writes the file meanwhile.
        settings: plain values under dotted keys, those of `SEEDS` among them.

    Raises:
        OSError: the line cannot be written.
    """
    now: dict[str, Any] = json.loads(json.dumps(masked_tree(dict(settings)), default=str))
    path = folder / CHANGES_FILE
    lines = read_lines(path)
    line: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "settings": now}
    if lines:
        before = lines[-1]["settings"]
        changed = {
            name: [before.get(name), now.get(name)]
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        }
        if not changed:
            return
        results = sum(1 for _ in folder.glob(f"final/*/{RESULT_FILE}"))
        added = results > 0 and any(asked(now, kind) - asked(before, kind) for kind in ("final", "design"))
        line |= {"changed": changed, "results": results, "seeds_added": added}
    with path.open("ab+") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # the last command died while it wrote
                file.write(b"\n")
        file.write(json.dumps(line, sort_keys=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def asked(settings: Mapping[str, Any], kind: str) -> set[tuple[bool, int]]:
    """The final seeds that settings ask for; those that nobody named count from zero, apart from named ones."""
    first, count = settings.get(f"{kind}.first_seed"), settings.get(f"{kind}.seeds")
    return {(first is None, (first or 0) + turn) for turn in range(count or 0)}


def read_changes(folder: Path) -> list[Change]:
    """Read what was changed in the study in `folder`, oldest first; empty where nothing was, or it is too old to tell."""
    return [
        Change(
            at=str(line["at"]),
            changed={name: (old, new) for name, (old, new) in line["changed"].items()},
            results=int(line["results"]),
            seeds_added=bool(line["seeds_added"]),
        )
        for line in read_lines(folder / CHANGES_FILE)
        if "changed" in line
    ]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines that can be read: one that was torn by a crash is passed over, its command is compared again."""
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    lines = []
    for text in texts:
        try:
            line = json.loads(text)
            lines += [line] if isinstance(line["settings"], dict) and isinstance(line["at"], str) else []
        except (ValueError, TypeError, KeyError):
            continue
    return lines
