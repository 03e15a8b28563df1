"""Which folders of a study hold a trial. A folder that has not changed since it was listed is not listed again."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import NamedTuple

from search.ledger.paths import NO_TRIALS_INSIDE
from search.ledger.result import RESULT_FILE

__all__ = ["SETTLE_NS", "Folder", "scan"]

SETTLE_NS = 2_000_000_000  # what changed later than this before it was read may change again under the same time stamp


class Folder(NamedTuple):
    """One folder below a study.

    Attributes:
        place: path relative to the study's folder, "" for itself.
        changed: when its list of names last changed, nanoseconds: (mtime, ctime); (0, 0) where that may not be trusted.
        inside: names of the folders in it that may hold trials, sorted.
        finished: it holds a result.
        started: Hydra began a run in it.
    """

    place: str
    changed: tuple[int, int]
    inside: tuple[str, ...]
    finished: bool
    started: bool


def scan(root: str, known: Mapping[str, Folder], unreadable: list[str]) -> list[Folder]:
    """List `root` and every folder below it that may hold trials, parents first, names in order.

    Args:
        root: folder of the study.
        known: what an earlier call returned, by place.
        unreadable: folders that cannot be listed are named here.
    """
    found = []
    waiting = [""]
    while waiting:
        place = waiting.pop()
        path = os.path.join(root, place) if place else root
        try:
            status = os.stat(path)
            changed = (status.st_mtime_ns, status.st_ctime_ns)
            folder = known.get(place)
            if folder is None or folder.changed != changed:
                folder = listed(path, place, changed)
        except OSError as error:
            unreadable.append(f"{error.filename}: {error.strerror}")
            continue
        found.append(folder)
        waiting += [f"{place}/{name}" if place else name for name in reversed(folder.inside)]
    return found


def listed(path: str, place: str, changed: tuple[int, int]) -> Folder:
    """Read the names in one folder."""
    finished = started = False
    inside = []
    now = time.time_ns()
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name == RESULT_FILE:
                finished = not entry.is_dir()
            elif name == ".hydra":
                started = place != "" and entry.is_dir()
            elif name not in NO_TRIALS_INSIDE and entry.is_dir(follow_symlinks=False):
                inside.append(name)
    trusted = changed if now - max(changed) > SETTLE_NS else (0, 0)
    return Folder(place, trusted, tuple(sorted(inside)), finished, started)
