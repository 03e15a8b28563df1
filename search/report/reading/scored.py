"""Scores that no trial wrote down, as columns of the frame: computed from what each trial kept of its images, without torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from search.ledger.metric import MetricColumn, metric_columns
from search.ledger.samples import SAMPLES_FILE, Samples, read_samples
from search.report.reading.rows import folder_of
from search.stats.scores import image_scores

HOW_TO_KEEP = (
    "a trial keeps that file in its folder where data.probe_size is set. Train with, for example, data.probe_size=5000, under another "
    "hydra.sweeper.study_name since finished trials are not trained again; and give the study's folder, not a file of its trials"
)


def with_scores(frame: pd.DataFrame, names: Iterable[str | None]) -> pd.DataFrame:
    """Add a Float64 column for each of the `names` that is a score from samples and not in the frame of `load_study` yet.

    A trial that kept no such images has NA there; `frame.attrs["unreadable"]` of what is returned names damaged files.
    """
    wanted = {name: metric_columns()[name] for name in names if name and is_from_samples(name) and name not in frame}
    if not wanted:
        return frame
    by_split: dict[str, list[str]] = {}
    for column in wanted.values():
        by_split.setdefault(str(column.split), []).append(column.name)
    values = {name: np.full(len(frame), np.nan) for name in wanted}
    unreadable = list(frame.attrs.get("unreadable", []))
    root = folder_of(frame)
    for at, (status, place) in enumerate(zip(frame["status"].tolist(), frame["run_dir"].tolist(), strict=True)):
        if status != "ok" or pd.isna(place) or not (root / place / SAMPLES_FILE).exists():
            continue
        try:
            samples = read_samples(root / place)
        except ValueError as error:
            unreadable.append(str(error))
            continue
        for split, scores in by_split.items():
            images = images_of(samples, split)
            if len(images):
                each = image_scores(samples.logits[images], samples.target[images], scores)
                for name, score in each.items():
                    values[f"{split}_{name}"][at] = score.mean()
    scored = frame.assign(**{name: pd.array(value, dtype="Float64") for name, value in values.items()})
    scored.attrs = frame.attrs | {"unreadable": unreadable}
    return scored


def images_of(samples: Samples, split: str) -> np.ndarray:
    """The places in `samples` of the images of a split: "val", "test", or "probe", which is all but "test"."""
    return np.flatnonzero(samples.part != "test" if split == "probe" else samples.part == split)


def is_from_samples(column: str) -> bool:
    """Whether a column of the frame is a score from samples."""
    known = metric_columns()
    return column in known and known[column].from_samples


def kept_nothing(metric: MetricColumn) -> str:
    """Say how trials come to keep what `metric` is computed from; "" for a metric of another kind."""
    if not metric.from_samples:
        return ""
    of_test = ", of test images in the final phase alone" * (metric.split == "test")
    return f". It is computed from {SAMPLES_FILE}{of_test}: {HOW_TO_KEEP}"
