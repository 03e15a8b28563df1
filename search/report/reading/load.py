"""From the folders of studies to a data frame: one row for each trial, with fixed columns and dtypes.

What was read of a large study is kept in its folder, so that the next table reads only what has changed. The file `.table_cache`
holds rows, not truth: `runs/` stays that. A row is taken from it only while its `result.json` has the same time stamps (mtime and
ctime), size and inode as when it was read. What was younger than two seconds then is read again, because a second change can fall
on the same tick of the clock. A torn, foreign or older file is passed over: a checksum guards it, and it carries a digest of the
code that made its rows. Deleting it costs one slow load.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from functools import cache as once
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search.ledger import measured, metric, result, study_files
from search.ledger.files import write_atomic
from search.ledger.record import recipe_settings
from search.ledger.result import RESULT_FILE
from search.ledger.study_files import NO_TRIALS_INSIDE
from search.report.reading import rows as frame_rows
from search.report.reading.rows import (
    COLUMNS,
    PHASES,
    Folder,
    differing,
    is_extra,
    read_trials_file,
    recipe_folders,
    result_row,
    unfinished_row,
)
from xvol.allowed import nearest

# Not handed out: the trial's folder, the key of its result where its row may be kept, and the names of its scores.
OWN_COLUMNS = {"place": "string", "key": "string", "scores": "string"}
log = logging.getLogger(__name__)
CACHE_FILE = ".table_cache"
CACHE_FROM = 500  # trials; fewer are read in a quarter of a second, and need no file
SETTLE_NS = 2_000_000_000
MAGIC = b"xvol-table-cache"
MADE_BY = (__file__, *(str(each.__file__) for each in (frame_rows, result, measured, metric, study_files)))


def load_study(path: Folder, *, cache: bool = True) -> pd.DataFrame:
    """Read every trial below a study's folder.

    A folder in which Hydra started a run (it holds `.hydra/`) but that has no result is a trial that was killed or is
    still running: it becomes a row with status "unfinished". A result that cannot be read stops nothing: it is left
    out and named in `frame.attrs["unreadable"]`.

    Args:
        path: `runs/<study>`, `runs/single`, the folder of one trial, or a file of trials (`tables/trials.csv`).
        cache: False reads every file again and writes nothing.

    Returns:
        One row for each trial with the columns and dtypes of `COLUMNS`, and its zero-cost scores, sorted by phase
        (search, final, single), trial and seed; docs/tables.md says what each column means, and its unit.
        `frame.attrs` holds `path` (str) and `unreadable` (a list of messages).

    Raises:
        ValueError: the folder is missing, holds no trial, or more than one study; those that exist beside it are named.
    """
    root = Path(path)
    if root.is_file():
        return read_trials_file(root)
    if not root.is_dir():
        raise ValueError(f"{root} does not exist. {_studies_beside(root)}")
    unreadable: list[str] = []
    frame = _read_trials(root, unreadable, cache)
    if not len(frame) and not unreadable:
        raise ValueError(f"{root} holds no trial: looked for **/{RESULT_FILE} below it. {_studies_beside(root)}")
    finished = frame[frame["study"].notna()].drop_duplicates("study")
    if len(finished) > 1:
        places = sorted(zip(finished["study"], finished["place"], strict=True))
        found = ", ".join(f"{study} (as in {root / place})" for study, place in places)
        raise ValueError(f"{root} holds {len(places)} studies: {found}. Give the folder of one of them")
    phase = frame["phase"].map(PHASES.index).astype("int64")
    order = frame.assign(phase=phase).sort_values(["phase", "trial", "seed", "run_dir"]).index
    frame = frame.drop(columns=list(OWN_COLUMNS)).loc[order].reset_index(drop=True)
    frame.attrs = {"path": str(root), "unreadable": unreadable}
    return frame


def _trial_folders(root: str, unreadable: list[str]) -> Iterator[tuple[str, str | None]]:
    """Find the trials below a study, parents first, names in order; a trial's own folder holds no other one.

    Yields the folder relative to `root`, "" for itself, and the `_file_key` of its result; None where it left none.
    """
    waiting = [""]
    while waiting:
        place = waiting.pop()
        key = _file_key(os.path.join(root, place, RESULT_FILE))
        if key is not None:
            yield place, key
            if place:
                continue
        try:
            with os.scandir(os.path.join(root, place)) as entries:
                inside = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        except OSError as error:
            unreadable.append(f"{error.filename}: {error.strerror}")
            continue
        if place and ".hydra" in inside:
            yield place, None
        waiting += [os.path.join(place, name) for name in sorted(inside - NO_TRIALS_INSIDE, reverse=True)]


def _read_trials(root: Path, unreadable: list[str], use_cache: bool) -> pd.DataFrame:
    """Read the trials below `root` in the order of their folders, with the columns `OWN_COLUMNS` more."""
    known = _read_cache(root) if use_cache else pd.DataFrame()
    there = {place: (key, row) for row, (place, key) in enumerate(known.reindex(columns=["place", "key"]).to_numpy())}
    kept: dict[int, int] = {}
    fresh: dict[int, dict[str, Any]] = {}
    provenances: dict[str, str] = {}
    for at, (place, key) in enumerate(_trial_folders(str(root), unreadable)):
        then, row = there.get(place, (None, 0))
        if key and key == then:
            kept[at] = row
            continue
        try:
            found = unfinished_row(str(root), place) if key is None else result_row(str(root), place, provenances)
        except ValueError as error:
            unreadable.append(str(error))
        else:
            fresh[at] = found | {"place": place, "key": key or None}
    frame = _frame_of(list(fresh.values()))
    if kept:
        old = known.take(list(kept.values()))
        frame = pd.concat([old, frame], ignore_index=True) if len(frame) else old.reset_index(drop=True)
        # A score is a column only while a trial that has it is there.
        scores = {name for names in frame["scores"].dropna().unique() for name in json.loads(names)}
        frame = frame[[*COLUMNS, *OWN_COLUMNS, *sorted(scores)]]
        frame = frame.iloc[np.argsort([*kept, *fresh], kind="stable")].reset_index(drop=True)
    news = len(kept) < len(known) or any(row["key"] for row in fresh.values())
    if use_cache and len(frame) >= CACHE_FROM and news:
        _write_cache(root, frame[frame["key"].notna()].reset_index(drop=True))
    return frame


def _file_key(path: str) -> str | None:
    """What a change of a file changes; "" where another change might not, or nothing is known; None where there is no file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError:
        return ""
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) <= SETTLE_NS:
        return ""
    return f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_size} {status.st_ino}"


@once
def made_by() -> str:
    """Digest of the code that makes the rows: other code may make other rows of the same files."""
    return hashlib.sha256(b"".join(Path(name).read_bytes() for name in MADE_BY)).hexdigest()


def _read_cache(root: Path) -> pd.DataFrame:
    """Read the rows that `_write_cache` kept; none where there is no file that can be used."""
    try:
        head, _, body = (root / CACHE_FILE).read_bytes().partition(b"\n")
    except OSError:
        return pd.DataFrame()
    if head != _header(body):
        log.debug("%s is torn or was made by another version: passed over", root / CACHE_FILE)
        return pd.DataFrame()
    return pd.read_feather(io.BytesIO(body))


def _write_cache(root: Path, frame: pd.DataFrame) -> None:
    """Keep rows, each with its `_file_key`; where the folder cannot be written to, none are kept."""
    buffer = io.BytesIO()
    frame.to_feather(buffer, compression="uncompressed")
    body = buffer.getvalue()
    try:
        write_atomic(root / CACHE_FILE, _header(body) + b"\n" + body)
    except OSError as error:
        log.debug("no cache was written: %s", error)


def _header(body: bytes) -> bytes:
    """First line of the file: what it is, who made it, and a checksum that a torn file fails."""
    return b" ".join([MAGIC, made_by().encode(), str(len(body)).encode(), b"%08x" % zlib.crc32(body)])


def _frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    for row in rows:
        own = [name for name in row if is_extra(name)]
        row["scores"] = json.dumps(own) if own else None
    scores = sorted({name for row in rows for name in row if is_extra(name)})
    columns = COLUMNS | OWN_COLUMNS | dict.fromkeys(scores, "Float64")
    return pd.DataFrame(
        {name: pd.array([row.get(name) for row in rows], dtype=dtype) for name, dtype in columns.items()}  # type: ignore[call-overload]
    )


def _studies_beside(root: Path) -> str:
    """Say which studies the parent folder (and `runs/`) holds, the nearest name first."""
    parents = [root.parent] if root.parent.name == "runs" else [root.parent, root.parent / "runs"]
    there = [folder for parent in parents if parent.is_dir() for folder in sorted(parent.iterdir()) if folder != root]
    found = {
        folder.name: folder for folder in there if any(any(folder.glob(f"{up}{RESULT_FILE}")) for up in ("*/", "*/*/"))
    }
    if not found:
        return f"No study was found in {' or '.join(map(str, parents))}; a study is made by `python -m search -m ...`"
    near = nearest(root.name, found)
    hint = f"Did you mean {found[near[0]]}? " if near else ""
    return f"{hint}Studies that exist: {', '.join(map(str, found.values()))}"


def load_pooled(paths: Sequence[Folder], phase: str | None = None) -> pd.DataFrame:
    """Load one study, or several whose recipe hashes agree; of several `run_dir` is relative to the working folder.

    Args:
        paths: folders of studies. Where an arm and seed were run by two, the table counts the first that finished.
        phase: of several studies, the one to keep; by default "final" where any study has it, else "search", else "single".

    Raises:
        ValueError: a folder is given twice, a study lacks the phase, or the recipes do not agree; the message names
            the settings that differ.
    """
    frames = [load_study(path) for path in paths]
    if len(frames) == 1:
        return frames[0]
    places = [Path(path).resolve() for path in paths]
    twice = sorted({str(path) for path, place in zip(paths, places, strict=True) if places.count(place) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is given more than once: each trial would count twice; give it once")
    present = {name for frame in frames for name in frame["phase"].dropna()}
    phase = phase or next(name for name in ("final", "search", "single") if name in present)
    pooled = []
    for path, frame in zip(paths, frames, strict=True):
        trials = frame[frame["phase"] == phase]
        if not len(trials):
            has = ", ".join(frame["phase"].dropna().unique())
            raise ValueError(
                f"{path} has no trial of phase '{phase}' (it has: {has}), so it cannot be pooled with the others; leave "
                "it out, or choose a phase that all have with --phase"
            )
        pooled.append(trials)
    _refuse_other_recipes(paths, pooled)
    pooled = [
        trials.assign(run_dir=(f"{Path(path)}/" + trials["run_dir"]).astype("string"))
        for path, trials in zip(paths, pooled, strict=True)
    ]
    whole = pd.concat(pooled, ignore_index=True)
    unreadable = [message for frame in frames for message in frame.attrs["unreadable"]]
    whole.attrs = {"path": ", ".join(map(str, paths)), "unreadable": unreadable}
    return whole


def _refuse_other_recipes(paths: Sequence[Folder], frames: Sequence[pd.DataFrame]) -> None:
    folders = [recipe_folders(path, frame) for path, frame in zip(paths, frames, strict=True)]
    if all(found.keys() == folders[0].keys() for found in folders):
        return
    said = "; ".join(
        f"{path} has {', '.join(sorted(found)) or 'none on record'}" for path, found in zip(paths, folders, strict=True)
    )
    by_recipe = {recipe: folder for found in folders for recipe, folder in found.items()}
    settings = {recipe: recipe_settings(folder) for recipe, folder in by_recipe.items()}
    known = {recipe: values for recipe, values in settings.items() if values is not None}
    keys = differing(list(known.values()))
    if keys:
        each = "; ".join(f"{name} ({' against '.join(map(repr, values))})" for name, values in keys.items())
        why = f"Settings that differ, for recipes {', '.join(known)}: {each}"
    elif len(known) < len(settings):
        unread = [str(folder) for recipe, folder in by_recipe.items() if recipe not in known]
        why = f"The settings cannot be compared: no readable .hydra/config.yaml in {', '.join(unread)}"
    else:
        why = "Their .hydra/config.yaml do not differ: the hashes were made by different versions of the code"
    raise ValueError(
        f"the studies were not trained by one recipe and cannot be pooled: {said}. {why}. Compare two of them with "
        "--diff"
    )
