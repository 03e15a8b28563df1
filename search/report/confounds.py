"""Tables of runs that are not ours, from W&B, MLflow or a CSV, and first what else differs between their arms than what is compared."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from search.ledger.foreign import mlflow_runs, offline_runs, online_runs
from search.report.ablation import AblationTable
from search.report.given import given_table, given_trials, labelled, metric_of
from search.report.judging import Judging
from search.report.words import counted, int_ranges, joined, joined_few, significant

CONFIG = "config."
# columns of a frame of runs that are no setting; those of W&B's own CSV are written with capitals
STATE, SECONDS, EPOCHS, READINGS, BEST, LAST = "state", "runtime", "epochs logged", "readings", "(best)", "(last)"
OWN = {
    "run",
    "name",
    "id",
    "created",
    "updated",
    "user",
    "notes",
    "tags",
    "group",
    "hostname",
    STATE,
    SECONDS,
    EPOCHS,
    READINGS,
    BEST,
    LAST,
}
STATUS = {"finished": "ok", "failed": "failed", "crashed": "failed", "killed": "failed"}  # any other has not ended
IDENTITY = re.compile(r"(?:^|[._-])(?:id|pid|port|time|timestamp|date|host|hostname|uuid|dir|path|name)$", re.I)
SLOWER, LONG = 1.25, 60.0  # ratio of median runtimes, and seconds, from which they are told
SHOWN = 6


def runs_table(
    source: str,
    *,
    arm: str,
    seed: str,
    metric: str,
    baseline: str,
    pick: str = "summary",
    higher: bool | None = None,
    judging: Judging,
) -> tuple[list[str], AblationTable, pd.DataFrame]:
    """Compare runs of W&B ("wandb:entity/project", or a folder of .wandb files), MLflow ("mlflow:URI#experiment") or a CSV ("csv:FILE").

    `pick` is the value of a run: "summary" (what its script left there), "best" or "last" of its history. Returns what was checked for
    confounds, in sentences, the table, and the trials it is of; ValueError as `search.compare`.
    """
    measured = metric_of(metric, higher)
    frame = read_runs(source, metric, pick, measured.higher_is_better)
    states = next((frame[name].astype(str).str.lower() for name in frame if str(name).lower() == STATE), None)
    statuses = None if states is None else [STATUS.get(state, "unfinished") for state in states]
    names = frame["run"].tolist() if "run" in frame else None
    asked: dict[str, Any] = {"arm": arm, "seed": seed, "baseline": baseline}
    trials = given_trials(frame, metric=measured, source=source, statuses=statuses, names=names, **asked)
    found = confounds(frame, metric=metric, pick=pick, **asked)
    table = given_table(trials, judging)
    return found, replace(table, conclusion=" ".join([*found, table.conclusion])), trials


def read_runs(source: str, metric: str, pick: str, higher_is_better: bool = True) -> pd.DataFrame:
    """Read runs into a frame, one row each; of W&B with the columns `config.<key>`, the metric, and what its history says."""
    kind, colon, place = source.partition(":")
    if colon and kind == "csv":
        if pick != "summary":
            raise ValueError(f"--{pick} picks from the history of a run, which a CSV does not have; leave it out")
        try:
            return pd.read_csv(place)
        except (OSError, ValueError) as error:
            raise ValueError(f"{place} cannot be read as CSV: {' '.join(str(error).split())}") from None
    if colon and kind not in ("wandb", "mlflow"):
        raise ValueError(
            f"{source}: runs are read from wandb:entity/project, mlflow:URI#experiment, csv:FILE, or a folder of .wandb files"
        )
    readers = {"wandb": online_runs, "mlflow": mlflow_runs}
    runs = readers[kind](place, metric) if colon else offline_runs(Path(source), metric)
    rows = []
    for run in runs:
        best = (max if higher_is_better else min)(run.readings, default=None)
        last = run.readings[-1] if run.readings else None
        value = {"summary": run.summary, "best": best, "last": last}[pick]
        facts = {
            "run": run.name,
            STATE: run.state,
            SECONDS: run.seconds,
            EPOCHS: run.epochs,
            READINGS: len(run.readings),
        }
        config = {
            f"{CONFIG}{key}": json.dumps(each) if isinstance(each, list | dict) else each
            for key, each in run.config.items()
        }
        rows.append(facts | {BEST: best, LAST: last} | config | {metric: value})
    if not rows:
        raise ValueError(f"{source} holds no run")
    return pd.DataFrame(rows)


def confounds(
    frame: pd.DataFrame, *, arm: str, seed: str, metric: str, baseline: Any, pick: str = "summary"
) -> list[str]:
    """Say what else differs between the arms of a frame of runs than `arm`: settings, seeds, checkpoints, budgets; or that nothing does."""
    labels = frame[arm].map(labelled)
    by_arm = {str(label): frame[labels == label] for label in dict.fromkeys([labelled(baseline), *labels])}
    settings = _settings(frame, (arm, seed, metric))
    differing = [told for name in settings if (told := _differs(by_arm, name, seed, labelled(baseline)))]
    found = []
    if differing:
        found.append(
            f"Beside {arm}, the arms differ in {joined_few(differing, SHOWN)}: a difference may come from there."
        )
    seeds = {label: sorted(int(value) for value in rows[seed]) for label, rows in by_arm.items()}
    if len({tuple(each) for each in seeds.values()}) > 1:
        each = [f"{label} {int_ranges(own)}" for label, own in seeds.items()]
        found.append(
            f"The arms have not the same seeds ({joined_few(each, SHOWN)}): what only some have is not compared."
        )
    found += _checkpoints(by_arm, metric, pick) + _budgets(by_arm)
    beside = _flattered(by_arm) if pick == "best" else []
    if found:
        return [f"CONFOUNDED. {found[0]}", *found[1:], *beside]
    history = ", which value was picked, epochs" if READINGS in frame else ""
    same = f"{counted(len(settings), 'setting')}, the seeds{history} and runtimes do not differ"
    return [f"No confound found: beside {arm}, {same}.", *beside]


def _settings(frame: pd.DataFrame, taken: Sequence[str]) -> list[str]:
    """The columns that are settings; of a CSV without a config those that are neither W&B's own nor a result, which differs in each run."""
    names = [
        str(name)
        for name in frame
        if name not in taken and not str(name).startswith("_") and str(name).lower() not in OWN
    ]
    if any(name.startswith(CONFIG) for name in names):
        names = [name for name in names if name.startswith(CONFIG)]
    else:
        names = [name for name in names if frame[name].dtype.kind != "f" or frame[name].nunique() <= len(frame) / 2]
    several = len(frame) > frame[taken[0]].nunique()
    own = [
        name for name in names if frame[name].map(str).nunique() == len(frame)
    ]  # a value of its own in each run: a name, a folder
    return [
        name
        for name in names
        if not (several and name in own and (frame[name].dtype.kind not in "fiu" or IDENTITY.search(name)))
    ]


def _differs(by_arm: dict[str, pd.DataFrame], name: str, seed: str, baseline: str) -> str:
    """Say how a setting differs between arms on a seed that they share; "" where it does not, e.g. since it goes with the seed."""
    values = {
        label: rows.set_index(seed)[name].map(labelled, na_action="ignore").fillna("absent")
        for label, rows in by_arm.items()
    }
    reference = values[baseline]

    def apart(own: pd.Series) -> bool:
        both = pd.concat([own, reference], axis=1, join="inner")
        return bool((both.iloc[:, 0] != both.iloc[:, 1]).any()) if len(both) else set(own) != set(reference)

    if not any(apart(own) for label, own in values.items() if label != baseline):
        return ""
    each = [f"{label}: {joined_few(list(dict.fromkeys(map(str, own))), 3)}" for label, own in values.items()]
    return f"{name} ({'; '.join(each[:SHOWN])}{'; ...' if len(each) > SHOWN else ''})"


def _flattered(by_arm: dict[str, pd.DataFrame]) -> list[str]:
    """Say by how much the best readings are above the last ones, where they are."""
    gains = {label: (rows[BEST] - rows[LAST]).abs().mean() for label, rows in by_arm.items()}
    each = [f"{label} {significant(gain, 2)}" for label, gain in gains.items() if gain > 0]
    return (
        [f"The best of each run's readings looks too good, by {joined_few(each, SHOWN)} on average over the last one."]
        if each
        else []
    )


def _checkpoints(by_arm: dict[str, pd.DataFrame], metric: str, pick: str) -> list[str]:
    """Say where the values of arms were picked from their histories in different ways, or from unequally many readings."""
    if READINGS not in next(iter(by_arm.values())):
        return []
    said = []
    counts = {label: sorted({int(n) for n in rows[READINGS]}) for label, rows in by_arm.items()}
    if pick == "summary":
        ways: dict[str, list[str]] = {}
        for label, rows in by_arm.items():
            told = rows[rows[BEST] != rows[LAST]].dropna(subset=[BEST])
            is_best, is_last = (bool(len(told)) and told[metric].eq(told[of]).all() for of in (BEST, LAST))
            ways.setdefault("the best" if is_best else "the last" if is_last else "", []).append(label)
        if {"the best", "the last"} <= set(ways):
            each = [f"{way} of {joined_few(ways[way], SHOWN)}" for way in ("the best", "the last")]
            said.append(f"The summaries hold unlike checkpoints ({joined(each)}): take --best or --last of all.")
    if len({tuple(each) for each in counts.values()}) > 1:
        each = [f"{label} {int_ranges(own)}" for label, own in counts.items()]
        said.append(
            f"{metric} was read unequally often ({joined_few(each, SHOWN)} times): more readings are more chances."
        )
    return said


def _budgets(by_arm: dict[str, pd.DataFrame]) -> list[str]:
    """Say where arms trained for unequal epochs, or took much longer."""
    said = []
    if all(EPOCHS in rows for rows in by_arm.values()):
        epochs = {label: sorted({labelled(value) for value in rows[EPOCHS].dropna()}) for label, rows in by_arm.items()}
        if len({tuple(each) for each in epochs.values()}) > 1:
            each = [f"{label} {joined(own) or 'none'}" for label, own in epochs.items()]
            said.append(f"The arms logged unequal last epochs ({joined_few(each, SHOWN)}).")
    column = next((name for name in next(iter(by_arm.values())) if str(name).lower() == SECONDS), None)
    if column is not None:
        seconds = {label: pd.to_numeric(rows[column], errors="coerce").dropna() for label, rows in by_arm.items()}
        medians = {label: float(own.median()) for label, own in seconds.items() if len(own)}
        if medians and max(medians.values()) > max(SLOWER * min(medians.values()), LONG):
            each = [f"{label} {median:.0f} s" for label, median in medians.items()]
            said.append(f"The arms took unequal times ({joined_few(each, SHOWN)}, medians).")
    return said
