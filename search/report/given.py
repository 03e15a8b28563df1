"""A table of runs that are not ours: a frame of anybody's, one row a training, becomes trials of the phase "given".

>>> import pandas, search
>>> runs = {"model": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "acc": [70.1, 70.4, 71.2, 71.6]}
>>> table = search.compare(pandas.DataFrame(runs), arm="model", seed="seed", metric="acc", baseline="a")
>>> table.data["diff"].round(2).tolist()
[<NA>, 1.15]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.metric import MetricColumn
from search.report.ablation import AblationTable, ablation_table
from search.report.judging import Judging
from search.report.reading.rows import COLUMNS
from search.report.values import GIVEN
from search.report.words import did_you_mean, int_ranges, joined_few

LOWER = re.compile(
    r"(?:^|[^a-z])(?:loss|err|error|perplexity|ppl|nll|ce|[mr]?mse|mae|wer|cer|fid|brier|ece|latency|time|seconds)(?:$|[^a-z])",
    re.I,
)
SHOWN = 4


def compare(
    frame: pd.DataFrame,
    *,
    arm: str,
    seed: str,
    metric: str,
    baseline: Any,
    higher_is_better: bool | None = None,
    unit: str | None = None,
    margin: float | None = None,
    correction: Any = "holm",
    test: str = "t",
    interval: str = "t",
) -> AblationTable:
    """Compare the arms of a frame with one of them, paired by seed: the statistics, words and exports of a study's table.

    Args:
        frame: one row a training. A row whose metric is missing, or not finite, is a training that failed: it is shown, never averaged.
        arm: column that says what was trained; its values name the rows.
        seed: column of whole numbers; runs of two arms with one seed are a pair.
        metric: column of numbers.
        baseline: the arm to compare with.
        higher_is_better: True by default, but must be said where the name of the metric reads like a loss.
        unit: of a difference, as said behind it in a sentence, e.g. "points"; by default "in <metric>".
        margin, correction, test, interval: as in `Judging`.

    Raises:
        ValueError: a column is missing, an arm has one seed twice, the metric or a seed is no number, the baseline is not there, or
            shares no seed with any other arm.
    """
    judging = Judging(margin=margin, correction=correction, test=test, interval=interval)
    measured = metric_of(metric, higher_is_better, unit)
    trials = given_trials(frame, arm=arm, seed=seed, metric=measured, baseline=baseline)
    return given_table(trials, judging)


def given_table(trials: pd.DataFrame, judging: Judging) -> AblationTable:
    """Make the table of what `given_trials` returned."""
    return replace(ablation_table(trials, judging=judging), name="comparison")


def metric_of(name: str, higher_is_better: bool | None = None, unit: str | None = None) -> MetricColumn:
    """Say how a column of somebody's is read; ValueError where its name reads like a loss and nobody said which way is better."""
    if higher_is_better is None and LOWER.search(str(name)):
        raise ValueError(
            f"'{name}' reads like something that is better when it is lower: say which, with higher_is_better=False or True "
            "(--lower-is-better or --higher-is-better)"
        )
    return MetricColumn(
        name=name,
        title=name,
        unit=f"in {name}" if unit is None else unit,
        higher_is_better=higher_is_better is not False,
    )


def given_trials(
    frame: pd.DataFrame,
    *,
    arm: str,
    seed: str,
    metric: MetricColumn,
    baseline: Any,
    source: str = "the frame",
    statuses: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return a frame as `load_study` makes it, of the phase "given", whose `attrs` have the metric; errors as `compare`.

    `statuses` says how each training ended, as in `TrialResult`; by default "ok" where it has a finite metric, else "failed". `names`
    say where each row comes from; by default its place in the index.
    """
    _check_columns(frame, (arm, seed, metric.name))
    if not len(frame):
        raise ValueError(f"{source} has no row: there is nothing to compare")
    labels, seeds = _labels(frame[arm], arm), _seeds(frame[seed], seed)
    values = _numbers(frame[metric.name], metric.name)
    reference = labelled(baseline)
    arms = labels.unique().tolist()
    if reference not in arms:
        hint = did_you_mean(reference, arms, " ", "'")
        raise ValueError(f"no row has {arm}='{reference}', the baseline.{hint} Arms: {joined_few(arms, 12)}")
    ended = statuses or np.where(np.isfinite(values), "ok", "failed").tolist()
    ended = [
        "failed" if end == "ok" and not np.isfinite(value) else end for end, value in zip(ended, values, strict=True)
    ]
    _check_pairs(labels, seeds, reference, arm, seed)
    own = {
        "study": source,
        "phase": GIVEN,
        "trial": range(len(frame)),
        "status": ended,
        "arm": labels.tolist(),
        "seed": seeds,
        "run_dir": list(names) if names is not None else [f"row {index}" for index in frame.index],
        "is_baseline": (labels == reference).tolist(),
        "reason": [None if end == "ok" else f"no finite {metric.name}" if end == "failed" else end for end in ended],
    }
    trials = pd.DataFrame(own).reindex(columns=[*COLUMNS]).astype(COLUMNS)
    trials[metric.column] = pd.array(np.where(np.isfinite(values), values, np.nan), dtype="Float64")
    described = ("name", "title", "unit", "higher_is_better")
    trials.attrs = {"unreadable": [], "metric": {name: getattr(metric, name) for name in described}}
    return trials


def labelled(value: Any) -> str:
    """Say a level in words: 64.0, which a column with a gap makes of 64, is "64"."""
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


def _check_columns(frame: pd.DataFrame, names: Sequence[str]) -> None:
    columns = [str(name) for name in frame.columns]
    for name in names:
        if columns.count(name) != 1:
            what = "no column" if name not in columns else "more than one column"
            raise ValueError(
                f"{what} '{name}'.{did_you_mean(name, columns, ' ', chr(39))} Columns: {joined_few(columns, 30) or 'none'}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"arm, seed and metric are three columns, not {', '.join(names)}")
    if names[2] in COLUMNS and COLUMNS[names[2]] != "Float64":
        raise ValueError(f"'{names[2]}' is a name of the ledger for something else than a metric: rename the column")


def _labels(column: pd.Series, name: str) -> pd.Series[str]:
    empty = column.isna() | column.astype(str).str.strip().eq("")
    if empty.any():
        raise ValueError(
            f"{int(empty.sum())} of {len(column)} rows have no {name}, first {_row(column, empty)}: leave them out"
        )
    return column.map(labelled)


def _seeds(column: pd.Series, name: str) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    wrong = ~np.isfinite(numbers) | (numbers != np.floor(numbers)) | (np.abs(numbers) >= 2**53)
    if wrong.any():
        value = column[wrong].iloc[0]
        raise ValueError(
            f"seed '{name}' is {value!r} in {_row(column, wrong)}; seeds are whole numbers, the same for the runs of all arms that "
            "belong together (a fold or a day may stand for one: number them)"
        )
    return numbers.astype("int64")


def _numbers(column: pd.Series, name: str) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = numbers.isna() & column.notna() & ~column.astype(str).str.strip().str.lower().isin(["nan", ""])
    if wrong.any():
        value = column[wrong].iloc[0]
        raise ValueError(
            f"metric '{name}' is no number in {int(wrong.sum())} of {len(column)} rows, first {value!r} in {_row(column, wrong)}: give "
            "a column of numbers, and leave it empty where a training failed"
        )
    values = numbers.to_numpy(dtype=float, na_value=np.nan)
    if not np.isfinite(values).any():
        raise ValueError(f"metric '{name}' has no finite value in any row")
    return values


def _row(column: pd.Series, where: Any) -> str:
    return f"row {column.index[np.asarray(where)][0]}"


def _check_pairs(labels: pd.Series[str], seeds: np.ndarray, reference: str, arm: str, seed: str) -> None:
    """Refuse one seed twice in an arm, and arms none of which shares a seed with the baseline."""
    pairs = pd.DataFrame({"arm": labels.to_numpy(), "seed": seeds})
    twice = pairs[pairs.duplicated()].drop_duplicates()
    if len(twice):
        shown = [f"'{name}' seed {number}" for name, number in zip(twice["arm"], twice["seed"], strict=True)]
        raise ValueError(
            f"one seed is there more than once: {joined_few(shown, SHOWN)}. Keep one row of each {arm} and {seed}; where they differ "
            "in a setting, that is another arm: filter by it, or join it to the name of the arm"
        )
    by_arm = {str(name): set(group["seed"].tolist()) for name, group in pairs.groupby("arm", sort=False)}
    others = {name: own for name, own in by_arm.items() if name != reference}
    if others and not any(own & by_arm[reference] for own in others.values()):
        each = [f"'{name}' has {int_ranges(own)}" for name, own in ({reference: by_arm[reference]} | others).items()]
        raise ValueError(
            f"no arm shares a seed with the baseline, so nothing can be paired: {joined_few(each, SHOWN)}. Differences are taken "
            f"between runs of one {seed}"
        )
