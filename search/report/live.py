"""A study's own run in Weights & Biases, as the process that holds it sees it: `runs/` is looked at now and then, and rows are logged.

All that is logged follows from the ledger, so that a study that goes on goes on with its run, offline too.
"""

from __future__ import annotations

import gc
import json
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search import stats
from search.ledger.metric import metrics_of
from search.ledger.secrets import mask
from search.ledger.study_files import read_objectives
from search.ledger.tracker import TrackerConfig
from search.ledger.wandb_run import forget_offline
from search.ledger.wandb_server import Away, Server
from search.ledger.wandb_start import loaded, start_anywhere
from search.ledger.wandb_table import log_table, where_is
from search.report.reading.load import load_study

POLL_SECONDS = 10.0  # between two looks; longer where a look takes more than a twentieth of it
TABLE_SECONDS = 60.0  # between two tables so far
ENDED = ("ok", "pruned", "failed")  # trials that count


def main(job: Mapping[str, Any]) -> None:
    """The life of the process: look until standard input says the table, or ends; then finish, and say where the run is."""
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: lines.put(sys.stdin.readline()), daemon=True).start()
    try:
        answer = Live(job).watch(lines)
    except Exception as error:
        answer = {"error": mask(f"{type(error).__name__}: {error}")}
    print(json.dumps(answer), flush=True)
    gc.freeze()  # the process ends: what it has loaded is not looked through once more


class Live:
    """The run, which starts with the first trial that has ended."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._dir, self._study, self._id = Path(job["study_dir"]), str(job["study"]), str(job["run_id"])
        self._config = TrackerConfig(**job["tracker"])
        self._server = Server(self._dir, self._config.patience)
        self._run: Any = None
        self._online = False
        self._logged, self._next_table = 0, time.monotonic() + TABLE_SECONDS

    def watch(self, lines: queue.Queue[str]) -> dict[str, str]:
        """Look at the study until a line comes, that with the table or an empty one; return where the run is."""
        while True:
            begun = time.monotonic()
            self.look()
            try:
                line = lines.get(timeout=max(POLL_SECONDS, 20 * (time.monotonic() - begun)))
            except queue.Empty:
                continue
            self.look()
            return self.finish(json.loads(line) if line else None)

    def look(self) -> None:
        """Log the trials that have ended since the last look."""
        try:
            frame = load_study(self._dir)
        except ValueError:  # no trial yet
            return
        rows = list(progress(frame, read_objectives(self._dir)))
        if rows and self._run is None:
            self._start()
        first = self._run.starting_step if self._online else 0
        for number, row in enumerate(rows[self._logged :], self._logged + 1):
            if number >= first:
                self._run.log(row, step=number)
        self._logged = len(rows)
        if rows and time.monotonic() > self._next_table:
            table = table_so_far(frame)
            values = table.astype(object).where(table.notna(), None).to_numpy().tolist()
            self._run.log({"so_far": loaded().Table(columns=list(table), data=values)}, step=max(self._logged, first))
            self._next_table = time.monotonic() + TABLE_SECONDS

    def _start(self) -> None:
        more = {"id": self._id, "job_type": "study", "resume": "allow"}
        name, facts = self._study, {"study": self._study}
        self._run, self._online = start_anywhere(self._config, self._server, self._dir, name, name, facts, **more)
        forget_offline(self._dir, self._id, Path(self._run.dir).parent)

    def finish(self, table: Mapping[str, Any] | None) -> dict[str, str]:
        """Log the table, if there is one, and finish; without one the study was interrupted."""
        if self._run is None and table is None:
            return {"folder": "", "url": ""}
        if self._run is None:
            self._start()
        if table is not None:
            self._run.config.update(table["config"], allow_val_change=True)
            log_table(self._run, table, self._seconds())
        answer = where_is(self._run)
        self._run.finish(exit_code=int(table is None))
        return answer

    def _seconds(self) -> float | None:
        """How long to wait until the server has the artifact."""
        try:
            return self._server.seconds_left() / 2 if self._online else None
        except Away:
            return None


def progress(frame: pd.DataFrame, objectives: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """A row for each trial that has ended, in the order of their ends: how the study stood then.

    Args:
        frame: of `load_study`.
        objectives: "maximize" or "minimize" by column, of a study with several; the first of them says what the best is.
    """
    ended = frame[frame["status"].isin(ENDED)].dropna(subset=["finished_at"]).sort_values("finished_at", kind="stable")
    if not len(ended):
        return
    column, higher = _judged_by(ended, objectives)
    senses = [sense == "maximize" for sense in objectives.values()]
    counts = {"ok": 0, "pruned": 0, "failed": 0}
    taken_over, best, front = 0, None, np.empty((0, len(senses)))
    for number, (_, trial) in enumerate(ended.iterrows(), 1):
        counts[trial["status"]] += 1
        taken_over += int(pd.notna(trial["reused_from"]))
        row: dict[str, Any] = {"done": number, **counts, "taken_over": taken_over}
        value = trial.get(column)
        if trial["status"] == "ok" and pd.notna(value):
            best = value if best is None else (max if higher else min)(best, value)
            row[column] = float(value)
            if senses:
                front = np.vstack([front, [float(trial[name]) for name in objectives]])
                front = front[np.array(stats.on_front(front, senses), dtype=bool)]
        row |= {} if best is None else {f"best_{column}": float(best)}
        row |= {"front": len(front)} if senses else {}
        yield row


def table_so_far(frame: pd.DataFrame) -> pd.DataFrame:
    """Means by phase and arm of the trials that have ended well; no differences, of which a look before the end says too much."""
    good = frame[frame["status"] == "ok"]
    column, higher = _judged_by(good, {})
    by_arm = good.groupby(["phase", "arm"], dropna=False, observed=True)
    table = by_arm.agg(n=(column, "count"), mean=(column, "mean"), sd=(column, "std"), params=("params", "first"))
    return table.reset_index().sort_values("mean", ascending=not higher, kind="stable")


def _judged_by(frame: pd.DataFrame, objectives: Mapping[str, str]) -> tuple[str, bool]:
    """The column that says which trial is the best, and whether higher is better."""
    if objectives:
        column, sense = next(iter(objectives.items()))
        return column, sense == "maximize"
    metrics = [metric.on("val") for metric in metrics_of(None) if "val" in metric.splits]
    measured = [metric for metric in metrics if metric.column in frame and frame[metric.column].notna().any()]
    metric = (measured or metrics)[0]  # as `search.report.values` chooses, which loads SciPy
    return metric.column, metric.higher_is_better
