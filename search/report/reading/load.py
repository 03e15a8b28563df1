"""From a study's folder to a data frame: one row for each trial, with fixed columns and dtypes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.result import RESULT_FILE
from search.report.reading.cache import CACHE_FROM, Cache, file_key, read_cache, scan, settled, write_cache
from search.report.reading.rows import COLUMNS, PHASES, is_extra, read_trials_file, result_row, unfinished_row
from xvol.suggest import nearest

OWN_COLUMNS = {"place": "string", "scores": "string"}  # the trial's folder, and the names of its scores: not handed out
PHASE_ORDER = {phase: position for position, phase in enumerate(PHASES)}


def load_study(path: str | os.PathLike[str], *, cache: bool = True) -> pd.DataFrame:
    """Read every trial below a study's folder.

    A folder in which Hydra started a run (it holds `.hydra/`) but that has no result is a trial that was killed or is
    still running: it becomes a row with status "unfinished". A result that cannot be read stops nothing: it is left
    out and named in `frame.attrs["unreadable"]`.

    A large study leaves what was read in its folder (`.table_cache`), and the next call reads only results that are
    new or have changed; see `search/report/reading/cache.py`.

    Args:
        path: `runs/<study>`, `runs/single`, the folder of one trial, or a file of trials (`tables/trials.csv`).
        cache: False reads every file again and writes nothing.

    Returns:
        One row for each trial with the columns and dtypes of `COLUMNS`, and its zero-cost scores, sorted by phase
        (search, final, single), trial and seed; docs/tables.md says what each column means, and its unit.
        `frame.attrs` holds `path` (str) and `unreadable` (a list of messages).

    Raises:
        ValueError: the folder is missing, holds no trial, or holds more than one study; the message names the studies
            that exist beside it.
    """
    root = Path(path)
    if root.is_file():
        return read_trials_file(root)
    if not root.is_dir():
        raise ValueError(f"{root} does not exist. {studies_beside(root)}")
    unreadable: list[str] = []
    frame = read_trials(str(root), unreadable, read_cache(root) if cache else Cache(), save=cache)
    if not len(frame) and not unreadable:
        raise ValueError(f"{root} holds no trial: looked for **/{RESULT_FILE} below it. {studies_beside(root)}")
    finished = frame[frame["study"].notna()].drop_duplicates("study")
    if len(finished) > 1:
        places = sorted(zip(finished["study"], finished["place"], strict=True))
        found = ", ".join(f"{study} (as in {root / place})" for study, place in places)
        raise ValueError(f"{root} holds {len(places)} studies: {found}. Give the folder of one of them")
    frame = in_order(frame.drop(columns=list(OWN_COLUMNS)))
    frame.attrs = {"path": str(root), "unreadable": unreadable}
    return frame


def read_trials(root: str, unreadable: list[str], known: Cache, save: bool) -> pd.DataFrame:
    """Read the trials below `root` in the order of their folders, from the cache where it still tells the truth.

    Returns:
        The frame of `load_study`, not yet sorted, with the columns `OWN_COLUMNS` more.
    """
    folders = scan(root, known.folders, unreadable)
    kept: list[int] = []
    fresh: list[dict[str, Any]] = []
    kept_at: list[int] = []
    fresh_at: list[int] = []
    provenances: dict[str, str] = {}
    keys: dict[str, tuple[int, ...]] = {}
    for position, folder in enumerate(folders):
        if folder.finished:
            key = file_key(os.path.join(root, folder.place, RESULT_FILE))
            cached = known.rows.get(folder.place)
            if cached is not None and cached[0] == key:
                kept.append(cached[1])
                kept_at.append(position)
            else:
                try:
                    fresh.append(result_row(root, folder.place, provenances) | {"place": folder.place})
                except ValueError as error:
                    unreadable.append(str(error))
                    continue
                fresh_at.append(position)
            # The key was taken before the file was read: a change since then shows at the next load as another key.
            if key is not None and settled(key):
                keys[folder.place] = key
        elif folder.started:
            fresh.append(unfinished_row(root, folder.place) | {"place": folder.place})
            fresh_at.append(position)
    frame = frame_of(fresh)
    if kept:
        old = known.frame.take(np.asarray(kept))
        frame = pd.concat([old, frame], ignore_index=True) if len(frame) else old.reset_index(drop=True)
        # A score is a column only while a trial that has it is there.
        scores = {name for names in frame["scores"].dropna().unique() for name in json.loads(names)}
        frame = frame[[*COLUMNS, *OWN_COLUMNS, *sorted(scores)]]
        frame = frame.iloc[np.argsort(np.asarray(kept_at + fresh_at), kind="stable")].reset_index(drop=True)
    news = {place: key for place, (key, _) in known.rows.items()} != keys or any(
        folder.changed != (0, 0) and known.folders.get(folder.place) != folder for folder in folders
    )
    if save and len(frame) >= CACHE_FROM and news:
        write_cache(Path(root), folders, keys, frame)
    return frame


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Put rows into typed columns; a value a row lacks is NA."""
    for row in rows:
        own = [name for name in row if is_extra(name)]
        row["scores"] = json.dumps(own) if own else None
    scores = sorted({name for row in rows for name in row if is_extra(name)})
    columns = COLUMNS | OWN_COLUMNS | dict.fromkeys(scores, "Float64")
    return pd.DataFrame(
        {name: pd.array([row.get(name) for row in rows], dtype=dtype) for name, dtype in columns.items()}  # type: ignore[call-overload]
    )


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort by phase, trial, seed and folder."""
    keys = frame[["trial", "seed", "run_dir"]].assign(phase=frame["phase"].map(PHASE_ORDER).astype("int64"))
    order = keys.sort_values(["phase", "trial", "seed", "run_dir"]).index
    return frame.loc[order].reset_index(drop=True)


def studies_beside(root: Path) -> str:
    """Say which studies the parent folder (and `runs/`) holds, the nearest name first."""
    parents = [root.parent] if root.parent.name == "runs" else [root.parent, root.parent / "runs"]
    found = [
        folder for parent in parents if parent.is_dir() for folder in sorted(parent.iterdir()) if has_trials(folder)
    ]
    found = [folder for folder in found if folder != root]
    if not found:
        return f"No study was found in {' or '.join(map(str, parents))}; a study is made by `python -m search -m ...`"
    names = {folder.name: folder for folder in found}
    near = nearest(root.name, names)
    hint = f"Did you mean {names[near[0]]}? " if near else ""
    return f"{hint}Studies that exist: {', '.join(map(str, found))}"


def has_trials(folder: Path) -> bool:
    """Tell whether a folder looks like a study: a result lies one or two folders below it."""
    return any(next(folder.glob(f"{depth}/{RESULT_FILE}"), None) for depth in ("*", "*/*"))
