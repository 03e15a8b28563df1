"""What detectors found, of trials that kept it: how far a difference moves with the pictures, and average precision by class."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.matches import ARRAYS, FILES, Matches, read_matches
from search.ledger.metric import SAMPLE_SPLITS, metric_columns
from search.report.arms import Arm, comparable
from search.report.reading.rows import folder_of
from search.report.table import NOTHING, Cell, Column, Table, interval_of, rows_of, with_dtypes
from search.report.values import Reading, read_arms
from search.report.words import decimals_for, one_line
from search.stats.precision import RESAMPLES, Judged, average_precision, drawn, mean_precision, over_pictures

PICTURES: dict[str, str] = {
    "pictures_low": "Float64",  # ends of the 95% interval of diff over resamples of the pictures, seeds averaged in each
    "pictures_high": "Float64",
    "pictures_sd": "Float64",  # standard deviation over them
}
"""What is known of a row over pictures, in tables of average precision where trials kept their matches."""
CLASS_COLUMNS: dict[str, str] = {
    "class": "string",  # in the order of the data's categories; "all classes" is the mean over them
    "objects": "Int64",  # that count
    "arm": "string",
    "arch_hash": "string",
    "is_baseline": "boolean",
    "n": "Int64",  # seeds that finished and kept their matches
    "mean": "Float64",  # average precision, percent; NA where the class has no object
    "sd": "Float64",  # over these seeds (n - 1)
}
"""Name and dtype of each column of the `data` of `class_table`."""
ALL = "all classes"
KINDS = {"box_ap": "box", "mask_ap": "mask"}


def pictures_of(read: Reading) -> tuple[list[dict[str, Any]], dict[str, str], list[str]]:
    """How far each arm's difference moves with the pictures: a row `PICTURES` for each, these columns where any is known, and a note.

    A row is None where the metric is no average precision, or a trial of the arm or of the baseline kept no matches of the same pictures.
    """
    rows: list[dict[str, Any]] = [dict.fromkeys(PICTURES) for _ in read.arms]
    if read.metric.name not in KINDS or read.reference is None or len(read.arms) < 2:
        return rows, {}, []
    try:
        theirs = _resampled_of(read, read.reference)
        for row, arm in zip(rows, read.arms, strict=True):
            if arm is read.reference or not comparable(arm, read.reference):
                continue
            ours = _resampled_of(read, arm)
            pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
            pictures = {each and each[0] for pair in pairs for each in pair}
            if len(pictures) != 1 or None in pictures:
                continue
            found = over_pictures(*([each[1] for each in side if each] for side in zip(*pairs, strict=True)))
            row |= {"pictures_low": found.low, "pictures_high": found.high, "pictures_sd": found.sd}
    except ValueError as error:
        return [dict.fromkeys(PICTURES) for _ in rows], {}, [f"No intervals over pictures: {error}."]
    if all(row["pictures_sd"] is None for row in rows):
        file = FILES[str(read.metric.split)]
        return rows, {}, [f"No intervals over pictures: not every trial of the arms has its {file}."]
    drew = (
        f"{RESAMPLES} resamples of the {SAMPLE_SPLITS[str(read.metric.split)]}, the same for both arms, seeds averaged"
    )
    return rows, PICTURES, [f"Over pictures: 95% of {drew}; verdicts follow the seeds."]


def picture_columns(digits: int) -> tuple[Column, ...]:
    """The column of a table that has `PICTURES`; plain text says it behind the verdict."""
    show = interval_of("pictures_low", "pictures_high", digits)
    return (Column("pictures", "95% over pictures", "math", left_out=("text",), show=show),)


def _files(read: Reading, arm: Arm) -> Iterator[tuple[int, Path]]:
    """The file of matches of each finished trial of an arm, by seed, whether it is there or not."""
    trials = arm.trials[arm.trials["status"] == "ok"]
    for seed, place in zip(trials["seed"].tolist(), trials["run_dir"].tolist(), strict=True):
        yield seed, folder_of(read.frame) / ("" if pd.isna(place) else place) / FILES[str(read.metric.split)]


def _resampled_of(read: Reading, arm: Arm) -> dict[int, tuple[tuple[int, ...], np.ndarray] | None]:
    """`_resampled` of each finished trial of an arm, by seed; None where it kept nothing."""
    kind = KINDS[read.metric.name]
    return {
        seed: _resampled(path, kind, path.stat().st_mtime_ns) if path.is_file() else None
        for seed, path in _files(read, arm)
    }


@lru_cache(maxsize=1024)  # the tables and the page of a study are made of the same files
def _resampled(path: Path, kind: str, changed: int) -> tuple[tuple[int, ...], np.ndarray] | None:
    """The ids of the pictures in a file, and its average precision in each resample of them, see `drawn`."""
    found = read_matches(path, kind)
    if found is None:
        return None
    return tuple(found.pictures.tolist()), mean_precision(_judged(found), drawn(len(found.pictures)))


def _judged(found: Matches) -> Judged:
    return Judged(**{name: getattr(found, name) for name in ARRAYS})


def class_table(frame: pd.DataFrame, metric: str | None = None, phase: str | None = None) -> Table:
    """Average precision of each class: a row a class, a column an arm, means over seeds; `data` has the columns `CLASS_COLUMNS`.

    Raises:
        ValueError: as `read_arms`; another metric; no trial that kept its matches, or such of other pictures or classes.
    """
    read = read_arms(frame, phase, metric)
    if read.metric.name not in KINDS:
        known = [name for name, column in metric_columns().items() if column.name in KINDS]
        raise ValueError(
            f"--classes shows the average precision of detectors ({', '.join(known)}), and this is a table of {read.metric.column}"
        )
    kept: dict[str, list[Matches]] = {}
    for arm in sorted(read.arms, key=lambda arm: (arm is not read.reference, arm.label)):
        each = (read_matches(path, KINDS[read.metric.name]) for _, path in _files(read, arm))
        if found := [one for one in each if one is not None]:
            kept[arm.label] = found
    if not kept:
        raise ValueError(
            f"no finished trial of phase '{read.phase}' has {FILES[str(read.metric.split)]} in its folder, where detectors leave it: give "
            "the study's folder, not a file of its trials"
        )
    first, *others = [one for found in kept.values() for one in found]
    if any(
        not np.array_equal(getattr(one, name), getattr(first, name))
        for one in others
        for name in ("pictures", "categories")
    ):
        raise ValueError("the trials kept matches of different pictures or classes: give studies of the same data")
    arms = {arm.label: arm for arm in read.arms}
    data = with_dtypes(
        [row for label, found in kept.items() for row in _class_rows(read, arms[label], found)], CLASS_COLUMNS
    )
    left = [arm.label for arm in read.arms if arm.label not in kept]
    return Table(
        name="classes",
        title=f"{read.studies or frame.attrs.get('path', 'study')}: {read.metric.title} by class",
        **_shown(data, list(kept), read),
        data=data,
        notes=[
            f"Average precision over IoU 0.50 to 0.95 in percent on {len(first.pictures):,} {SAMPLE_SPLITS[str(read.metric.split)]}, "
            f"mean ± sd over seeds.",
            *([f"Without {FILES[str(read.metric.split)]}, left out: {', '.join(left)}."] if left else []),
        ],
    )


def _class_rows(read: Reading, arm: Arm, found: list[Matches]) -> Iterator[dict[str, Any]]:
    """The rows `CLASS_COLUMNS` of one arm."""
    each = np.array([average_precision(_judged(one))[0] for one in found])
    known = ~np.isnan(each[0])
    values = np.column_stack([each, each[:, known].mean(axis=1) if known.any() else np.full(len(each), np.nan)])
    objects = found[0].objects.sum(axis=0).tolist()
    for at, name in enumerate((*found[0].categories.tolist(), ALL)):
        there = not np.isnan(values[0, at])
        yield {
            "class": name,
            "objects": sum(objects) if at == len(objects) else objects[at],
            "arm": arm.label,
            "arch_hash": arm.arch_hash,
            "is_baseline": arm is read.reference,
            "n": len(found),
            "mean": float(values[:, at].mean()) if there else None,
            "sd": float(values[:, at].std(ddof=1)) if there and len(found) > 1 else None,
        }


def _shown(data: pd.DataFrame, labels: list[str], read: Reading) -> dict[str, Any]:
    """Columns and rows: classes in the order of the data, arms beside each other."""
    digits = decimals_for(data["sd"].dropna().tolist(), read.metric.decimals)
    of_arm = {label: list(data[data["arm"] == label].itertuples(index=False)) for label in labels}

    def cell(label: str) -> Any:
        def show(at: int) -> Cell:
            row: Any = of_arm[label][at]
            if pd.isna(row.mean):
                return NOTHING
            return Cell(f"{row.mean:.{digits}f}", "" if pd.isna(row.sd) else f"± {row.sd:.{digits}f}")

        return show

    first: list[Any] = of_arm[labels[0]]
    columns = [
        Column("class", "class", "words", show=lambda at: one_line(first[at][0], 100)),
        Column("objects", "objects", show=lambda at: str(first[at].objects)),
        *(Column(label, one_line(label, 100), "math", show=cell(label)) for label in labels),
    ]
    return {"columns": columns, "rows": rows_of(columns, range(len(first)))}
