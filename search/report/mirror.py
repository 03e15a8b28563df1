"""What a study's table hands to Weights & Biases: its rows, the trials behind them, and the files of `tables/`."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from search.ledger.secrets import mask
from search.ledger.tracker import OF_WANDB, TrackerConfig, check_tracker
from search.ledger.wandb_table import Rows, Sent, StudyTable, send_table
from search.report.ablation import AblationTable
from search.report.pivot import PivotTable
from search.report.reading.load import load_study
from search.report.write import save_tidy

log = logging.getLogger(__name__)
MOST_TRIALS = 10_000  # rows of the tidy frame that are shown as a table: as many as W&B shows of one
TRIALS, TRIALS_FILE = "trials", "trials.parquet"
FORMS = (".md", ".tex", ".csv", ".html", ".parquet", ".json", ".txt", ".svg", ".pdf", ".png")
CONFIGS_TRIED = 5
Send = Callable[[TrackerConfig, StudyTable], Sent | None]


def mirror_study(study_dir: str | os.PathLike[str], table: AblationTable, send: Send | None = None) -> Sent | None:
    """Send what `write_tables` returned at the end of a study, as its tracker says; a fault is logged, and none is raised."""
    folder = Path(study_dir)
    try:
        frame = load_study(folder)
        config = study_tracker(folder, frame)
        if config is None or config.mode not in OF_WANDB:
            return None
        sent = mirror_table(config, folder, folder / "tables", frame, table, send)
    except Exception as error:
        log.warning("W&B: the table was not logged: %s", mask(" ".join(str(error).split())))
        return None
    if sent is not None:
        log.info("W&B: the table is %s: %s", sent.mode, sent.where)
    return sent


def mirror_asked(
    study_dir: Path,
    files: Path,
    frame: pd.DataFrame,
    table: AblationTable | PivotTable,
    given: Mapping[str, str | None],
) -> int:
    """Send a table that a user asked for, say where it is, and return the exit status.

    `given` has mode, project and entity; None for what the study itself says.
    """
    try:
        own = study_tracker(study_dir, frame) or TrackerConfig(mode="disabled")
        if own.mode not in OF_WANDB:
            own = replace(own, mode="online")
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        sent = mirror_table(replace(own, **changes), study_dir, files, frame, table)
    except (ValueError, OSError) as error:
        print(f"W&B: the table was not sent: {mask(str(error))}", file=sys.stderr)
        return 1
    if sent is None:
        return 1  # said why in the log, which goes to stderr
    upload = f"; upload it: wandb sync {sent.where}" if sent.mode == "offline" else ""
    print(f"W&B: the table is {sent.mode}: {sent.where}{upload}", file=sys.stderr)
    return 0


def mirror_table(
    config: TrackerConfig,
    study_dir: Path,
    files: Path,
    frame: pd.DataFrame,
    table: AblationTable | PivotTable,
    send: Send | None = None,
) -> Sent | None:
    """Send a table: one run of the study's group, job type "table", and one artifact of type "ablation-table".

    The run holds the rows as a W&B table under the name of the table and, where there are at most `MOST_TRIALS` of them,
    the tidy frame as one called "trials", without its column `provenance`. The artifact holds the files of the table, which lie in
    `files`, and the whole tidy frame, `trials.parquet`, which is written beside them. Offline runs lie below `study_dir`.

    Returns as `send_table`, which logs what goes wrong with W&B and raises nothing. ValueError where the tracker's mode is unknown, or the
    table is called as the tidy frame is.
    """
    check_tracker(config)
    if table.name == TRIALS:
        raise ValueError(f"name: '{TRIALS}' is what the tidy frame is called in W&B; give the table another name")
    save_tidy(frame, files / TRIALS_FILE)
    found = sorted(path for path in files.iterdir() if path.suffix in FORMS and path.is_file() and path.name[0] != ".")
    if isinstance(table, PivotTable):
        facts: dict[str, Any] = {"metrics": [metric.column for metric in table.metrics]}
        found, said = [path for path in found if path.name.startswith(f"{table.name}.")], table.notes
    else:
        facts = {"metrics": [table.metric.column], "phase": table.phase, "baseline": table.baseline}
        said = [table.conclusion, *table.notes]
    name, rows = table.name, _frame_rows(table.data)
    tables = {name: rows}
    if len(frame) <= MOST_TRIALS:
        tables[TRIALS] = _frame_rows(frame.drop(columns="provenance"))
    else:
        said = [*said, f"The {len(frame):,} trials are in the artifact alone, as {TRIALS_FILE}."]
    studies = frame["study"].dropna().unique().tolist()
    begun = frame["started_at"].dropna()
    study = StudyTable(
        study=str(studies[0]) if studies else study_dir.name,
        name=name,
        identity=str(begun.min()) if len(begun) else "",
        folder=study_dir.absolute(),
        tables=tables,
        files=sorted({*found, files / TRIALS_FILE}),
        config={"table": name, "title": table.title, **facts, "trials": len(frame)},
        summary={"title": table.title, "notes": "\n".join(said), "rows": len(rows.rows)},
    )
    return (send or send_table)(config, study)


def study_tracker(study_dir: Path, frame: pd.DataFrame) -> TrackerConfig | None:
    """Return how the study logs to W&B: as its last finished trials did, else as `multirun.yaml` says; None where neither does.

    A command line such as `tracker=online` stands in a trial's config alone: Hydra keeps it out of `multirun.yaml`.
    """
    ended = frame.dropna(subset=["finished_at", "run_dir"]).sort_values("finished_at", kind="stable")
    places = [
        study_dir / place / ".hydra" / "config.yaml" for place in ended["run_dir"].tolist()[: -CONFIGS_TRIED - 1 : -1]
    ]
    for path in (*places, study_dir / "multirun.yaml"):
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if isinstance(config, dict) and isinstance(config.get("tracker"), dict):
            return _tracker_of(config, path)
    return None


def _tracker_of(config: Mapping[str, Any], path: Path) -> TrackerConfig:
    """Read the tracker of a config; interpolations in it are resolved as Hydra resolves them."""
    values = config["tracker"]
    if "${" in str(values):
        from omegaconf import OmegaConf  # here: tables are read without it
        from omegaconf.errors import OmegaConfBaseException

        try:
            values = OmegaConf.to_container(OmegaConf.create(dict(config)).tracker, resolve=True)
        except OmegaConfBaseException as error:
            raise ValueError(f"{path}: tracker: {str(error).splitlines()[0]}") from None
    known = {name: values[name] for name in ("mode", "project", "entity", "tags") if name in values}
    tracker = replace(TrackerConfig(), **known)
    texts = isinstance(tracker.tags, list) and all(isinstance(tag, str) for tag in tracker.tags)
    if not texts or not isinstance(tracker.project, str) or not isinstance(tracker.entity, str | None):
        raise ValueError(f"{path}: tracker: project and entity must be text, tags a list of texts")
    check_tracker(tracker)
    return tracker


def _frame_rows(frame: pd.DataFrame) -> Rows:
    """Return a data frame as plain values, None for NA and for what is not finite."""
    columns = [
        [None if pd.isna(value) or value in (math.inf, -math.inf) else value for value in frame[name].tolist()]
        for name in frame
    ]
    return Rows(
        columns={str(name): str(dtype) for name, dtype in frame.dtypes.items()},
        rows=list(zip(*columns, strict=True)),
    )
