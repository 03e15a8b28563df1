"""How busy the workers of a study were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from search.ledger.study_files import JOURNAL
from search.report.plots.data import NothingToShow, PlotData, left_out, made
from search.report.plots.drawing import PAPER, SERIES, canvas, drawn, names
from search.report.words import counted

MOST_WORKERS, MOST_BARS = 24, 600


def timeline_data(frame: pd.DataFrame) -> PlotData:
    """Who trained when: worker, phase, start_s and end_s (seconds since the first trial), trials; for each worker the idle share.

    Workers are those of the study's journal; trials that it does not know are laid into the first row that is free.
    """
    known = frame[frame["reused_from"].isna() & frame["started_at"].notna() & frame["finished_at"].notna()]
    if not len(known):
        raise NothingToShow("no trial says when it began and ended")
    times = {name: pd.to_datetime(known[f"{name}_at"], utc=True, errors="coerce") for name in ("started", "finished")}
    first = times["started"].min()
    bars = pd.DataFrame({name: (at - first).dt.total_seconds() for name, at in times.items()})
    bars = bars.assign(phase=known["phase"], place=known["run_dir"].astype(object)).dropna(
        subset=["started", "finished"]
    )
    bars = bars[bars["finished"] >= bars["started"]].sort_values("started")
    path = frame.attrs.get("path")
    bars["row"] = _rows(bars, workers_of(Path(str(path))) if path is not None else {})
    rows, busy, whole = [], 0.0, 0.0
    for number, (_, own) in enumerate(bars.groupby("row", sort=False), start=1):
        spans = _merged(own, (bars["finished"].max() or 1.0) / MOST_BARS if len(bars) > MOST_BARS else 0.0)
        lasted = spans[-1]["end_s"] - spans[0]["start_s"]
        worked = min(float((own["finished"] - own["started"]).sum()), lasted)
        busy, whole = busy + worked, whole + lasted
        rows += [{"worker": number, **span, "idle": 1 - worked / lasted if lasted else 0.0} for span in spans]
    data = pd.DataFrame(rows)
    workers, hours = int(data["worker"].max()), float(bars["finished"].max()) / 3600
    idle = 1 - busy / whole if whole else 0.0
    return PlotData(
        name="timeline",
        title="Workers",
        frame=data[data["worker"] <= MOST_WORKERS].reset_index(drop=True),
        said=f"{counted(len(bars), 'training')} by {counted(workers, 'worker')} over {hours:.2f} hours; between its first and its "
        f"last trial a worker was idle {idle:.0%} of the time.{left_out(min(workers, MOST_WORKERS), workers, 'workers')}",
        facts={"hours": hours},
    )


def workers_of(study_dir: Path) -> dict[str, str]:
    """Which worker ran each trial, by the trial's folder, as the study's journal says; empty where it is kept elsewhere."""
    trial: dict[str, dict[int, str]] = {"run_dir": {}, "worker": {}}
    try:
        with (study_dir / JOURNAL).open("rb") as file:
            for line in file:
                if b'"user_attr":{"worker"' not in line and b'"user_attr":{"run_dir"' not in line:
                    continue
                record = json.loads(line)
                ((name, value),) = record["user_attr"].items()
                trial[name][record["trial_id"]] = value["lock"] if name == "worker" else value
    except (OSError, ValueError, KeyError, TypeError):
        pass  # a torn line ends what is known
    return {place: trial["worker"][number] for number, place in trial["run_dir"].items() if number in trial["worker"]}


def _rows(bars: pd.DataFrame, workers: Mapping[str, str]) -> list[str]:
    """The row of each training: its worker's; of one that is not known, a row that is free when it begins."""
    free: list[float] = []
    found = []
    for start, end, place in zip(bars["started"], bars["finished"], bars["place"], strict=True):
        if place in workers:
            found.append(workers[place])
            continue
        at = next((number for number, until in enumerate(free) if until <= start), len(free))
        free[at : at + 1] = [end]
        found.append(f"row {at}")
    return found


def _merged(own: pd.DataFrame, gap: float) -> list[dict[str, Any]]:
    """One worker's trainings in turn; those of one phase with no more than `gap` seconds between them are one."""
    spans: list[dict[str, Any]] = []
    for start, end, phase in zip(own["started"], own["finished"], own["phase"], strict=True):
        last = spans[-1] if spans else None
        if last is not None and gap > 0 and start - last["end_s"] <= gap and phase == last["phase"]:
            last["end_s"], last["trials"] = max(last["end_s"], end), last["trials"] + 1
        else:
            spans.append({"phase": phase, "start_s": start, "end_s": end, "trials": 1})
    return spans


@drawn
def timeline(frame: pd.DataFrame | PlotData) -> Figure:
    """Draw what each worker did when, and how long it was idle; `NothingToShow` where no trial says when it ran."""
    data = made(timeline_data, frame)
    workers = sorted(data.frame["worker"].unique())
    figure, (axes,) = canvas(1.1 + 0.28 * len(workers))
    unit, seconds = ("hours", 3600) if data.facts["hours"] > 2 else ("minutes", 60)
    for phase, colour in zip(("search", "final", "single"), SERIES, strict=False):
        own = data.frame[data.frame["phase"] == phase]
        groups: list[Any] = list(own.groupby("worker"))
        for number, (at, bars) in enumerate(groups):
            spans = [
                (start / seconds, (end - start) / seconds)
                for start, end in zip(bars["start_s"], bars["end_s"], strict=True)
            ]
            text = {"search": "search", "final": "final trainings", "single": "single runs"}[phase]
            axes.broken_barh(
                spans,
                (float(at) - 0.36, 0.72),
                color=colour,
                alpha=0.75,
                lw=0.6,
                ec=PAPER,
                label="" if number else text,
            )
    idle = data.frame.groupby("worker")["idle"].first()
    names(axes.yaxis, [f"worker {at}\n{idle[at]:.0%} idle" for at in workers], [float(at) for at in workers])
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.set_ylim(len(workers) + 0.6, 0.4)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{unit} since the first trial began")
    axes.grid(axis="x")
    figure.legend(loc="outside lower left", ncols=3)
    return figure
