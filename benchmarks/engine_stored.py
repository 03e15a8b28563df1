"""What a trial costs beside trials that are stored: N in its own study, and N more in studies beside it.

The stored trials are made up: a complete trial in the journal, and the folder with its `result.json`.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine_runs import ROOT, Engine, Row, cost_of_each, fresh, traced
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from search.ledger.index import INDEX_FILE
from search.ledger.result import RESULT_FILE, TrialResult
from search.study.storage.opening import open_storage

__all__ = ["stored"]

APP = ROOT / "benchmarks" / "engine_ledger_app.py"
STUDIES = 10  # beside the one that is measured
MEASURED = 200  # trials


def stored(engine: Engine, folder: Path, counts: Sequence[int], repeats: int) -> Row:
    """CPU of a trial beside `counts` of stored trials, the last over the first.

    A trial's CPU is what its process spends from the trial's start to the next one's. The first trials of a process, which
    pay for its start, are left out.
    """
    row: Row = {"engine": engine.name, "trials": MEASURED}
    places = {count: _filled(engine, fresh(folder / f"stored{count}"), count) for count in counts}
    medians: dict[int, list[float]] = {count: [] for count in counts}
    starts: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(repeats):  # in turns, so that drift of the machine falls on both alike
        for count, place in places.items():
            known = {trial.number for trial in traced(place)}
            cost = _run(engine, place, len(known) + count + MEASURED)
            new = sorted(trial.number for trial in traced(place) if trial.number not in known)
            costs = cost_of_each(traced(place))
            medians[count].append(statistics.median(costs[n] for n in new[20:-1] if n in costs))
            starts[count].append(next(t.began for t in traced(place) if t.number == new[0]) - cost.start)
    rebuilt = {count: _rebuilt(engine, place, count) for count, place in places.items()}
    row["rows"] = [
        {
            "stored": count,
            "cpu": statistics.median(medians[count]),
            "cpu_of_repeats": medians[count],
            "to_first_trial": min(starts[count]),
            "to_first_trial_without_index": rebuilt[count],
        }
        for count in counts
    ]
    row["ratio"] = row["rows"][-1]["cpu"] / row["rows"][0]["cpu"]
    return row


def _run(engine: Engine, place: Path, trials: int) -> Any:
    return engine.run(place, trials, 1, app=APP)


def _rebuilt(engine: Engine, place: Path, count: int) -> float:
    """Seconds to the first trial where the index of the runs is gone."""
    (place / INDEX_FILE).unlink()
    known = {trial.number for trial in traced(place)}
    cost = _run(engine, place, len(known) + count + 1)
    return next(t.began for t in traced(place) if t.number not in known) - cost.start


def _filled(engine: Engine, place: Path, count: int) -> Path:
    """A folder of runs with a study that the command has begun, and `count` trials in it and beside it."""
    _run(engine, place, 1)
    sync, os.fsync = os.fsync, lambda handle: None  # made up: nobody minds if they are lost
    try:
        _fill_study(place / "sweep", count)
        for number in range(count):
            study = place / f"beside{number % STUDIES}"
            _write(study, study.name, number // STUDIES, f"{study.name} {number}")
    finally:
        os.fsync = sync
    return place


def _fill_study(study_dir: Path, count: int) -> None:
    storage = open_storage(None, study_dir)
    study_id = storage.get_study_id_from_name("engine")
    space = {name: FloatDistribution(0, 1) for name in ("lr", "drop")}
    for number in range(1, count + 1):
        params = {"lr": number / (count + 2), "drop": 0.5}
        trial = create_trial(state=TrialState.COMPLETE, value=9.0, params=params, distributions=space)
        storage.create_new_trial(study_id, trial)
        _write(study_dir, "engine", number, f"stored {number}")


def _write(study_dir: Path, name: str, number: int, fingerprint: str) -> None:
    folder = study_dir / "trials" / f"{number:04d}-s0"
    folder.mkdir(parents=True)
    row = TrialResult(study=name, trial=number, phase="search", status="ok", seed=0, fingerprint=fingerprint)
    (folder / RESULT_FILE).write_text(json.dumps({"schema": 2, **asdict(row)}))
