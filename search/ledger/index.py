"""Which results there are by their fingerprint, over all studies below one folder. Reads each result once."""

from __future__ import annotations

import os
import time
from pathlib import Path

from search.ledger.paths import NO_TRIALS_INSIDE
from search.ledger.result import RESULT_FILE, TrialResult, read_result

__all__ = ["Index"]

DEPTH = 3  # runs_root/<study>/<trials|final>/<trial>
ENDED = ("ok", "pruned", "failed", "infeasible", "duplicate")  # a result that is never written again
SETTLE_SECONDS = 2.0  # a folder changed later than this before it was listed may change again under the same time stamp
_CHANGING = -1


class Index:
    """Finds an earlier trial whose result can stand for a new one's.

    Only trials with status "ok" that were trained, and not themselves taken from another, are found. A file that is
    torn, foreign or of an unknown schema is passed over. A call after the first one lists only folders that have
    changed and reads only results that are new.

    Args:
        runs_root: the folder that holds the studies' folders, `runs/`; it need not exist yet.
    """

    def __init__(self, runs_root: str | os.PathLike[str]) -> None:
        self._root = os.path.abspath(runs_root)
        self._watched: dict[str, tuple[int, int]] = {self._root: (_CHANGING, 0)}  # folder: (time stamp, depth)
        self._ended: set[str] = set()
        self._found: dict[str, dict[str, bool]] = {}  # fingerprint: {path: whether it has test scores}

    def find(self, fingerprint: str, needs_test: bool) -> Path | None:
        """The absolute path of the `result.json` of an earlier trial with that fingerprint, or None.

        Args:
            needs_test: take no result without test scores.
        """
        self._refresh()
        candidates = self._found.get(fingerprint, {})
        for path, has_test in sorted(candidates.items()):
            if needs_test and not has_test:
                continue
            if os.path.isfile(path):
                return Path(path)
            del candidates[path]
        return None

    def _refresh(self) -> None:
        for folder, (listed, depth) in list(self._watched.items()):
            try:
                changed = os.stat(folder).st_mtime_ns
            except OSError:
                if folder != self._root:
                    del self._watched[folder]
                continue
            if changed != listed:
                self._list(folder, depth, changed)

    def _list(self, folder: str, depth: int, changed: int) -> None:
        """Take in what is new in `folder`, and below it."""
        settled = time.time_ns() - changed > SETTLE_SECONDS * 1e9
        self._watched[folder] = (changed if settled else _CHANGING, depth)
        try:
            with os.scandir(folder) as entries:
                inside = {entry.name: entry.is_dir() for entry in entries}
        except OSError:
            return
        if RESULT_FILE in inside:
            self._read(folder)
            return
        if depth == DEPTH:
            return
        for name, is_folder in inside.items():
            path = os.path.join(folder, name)
            if is_folder and name not in NO_TRIALS_INSIDE and path not in self._ended and path not in self._watched:
                self._watched[path] = (_CHANGING, depth + 1)
                try:
                    self._list(path, depth + 1, os.stat(path).st_mtime_ns)
                except OSError:  # gone since
                    del self._watched[path]

    def _read(self, folder: str) -> None:
        path = os.path.join(folder, RESULT_FILE)
        try:
            result = read_result(Path(path))
        except ValueError:
            return
        if result.status in ENDED:
            self._ended.add(folder)
            self._watched.pop(folder, None)
        if _can_stand_for_another(result):
            assert result.fingerprint is not None
            self._found.setdefault(result.fingerprint, {})[path] = result.test_top1 is not None


def _can_stand_for_another(result: TrialResult) -> bool:
    return result.status == "ok" and result.reused_from is None and isinstance(result.fingerprint, str)
