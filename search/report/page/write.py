"""Writes the page of a study, and its plots."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from search.ledger.files import write_atomic
from search.ledger.secrets import mask
from search.report import plots
from search.report.ablation import AblationTable, ablation_table
from search.report.judging import Judging
from search.report.notes import changes_of
from search.report.page.sections import pictures, sections, verdict
from search.report.plots.data import NothingToShow
from search.report.provenance import gate
from search.report.reading.load import load_study
from search.report.reading.rows import folder_of
from search.report.trust import cases_of
from search.report.words import int_ranges, one_line
from search.report.write import provenance_of_rows, with_trust

PAGE = "report.html"
MOST_ARMS = 200  # whose runs are listed; the rest stands in the files of the table
SHOWN_TEXTS = ("study", "arm", "reason", "overrides", "provenance", "data_source")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run behind a cell: its folder, with links that lead there from the page; a link is None where there is nothing."""

    place: str
    folder: str | None
    config: str | None
    wandb_id: str | None
    wandb: str | None


@dataclass(frozen=True, kw_only=True)
class CellSource:
    """Where the numbers of one arm come from."""

    arm: str
    said: str
    runs: Sequence[Run]


def write_page(
    study: str | os.PathLike[str], out: Path | None = None, judging: Judging | None = None, refresh: int | None = None
) -> Path:
    """Write the page of a study, whole or not at all, by default to its `tables/report.html`; return its path.

    Args:
        study: its folder, or a file of trials, whose page goes beside it by default.
        judging: as for `ablation_table`.
        refresh: seconds after which a reader's browser loads it again, while the study runs.

    Raises:
        ValueError: no trial can be read there. OSError: the file cannot be written.
    """
    frame = masked(load_study(study))
    table = with_trust(ablation_table(frame, judging=judging), frame)
    path = out if out is not None else (Path(study).parent if Path(study).is_file() else Path(study) / "tables") / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page(table, frame, path.parent, refresh))
    return path


def write_plots(study: str | os.PathLike[str], folder: Path, form: str, judging: Judging | None = None) -> list[Path]:
    """Write every plot of a study that shows something as `folder/<name>.<form>`; return the paths."""
    frame = masked(load_study(study))
    table = ablation_table(frame, judging=judging)
    written = []
    for _, data_of, draw in pictures(table, frame, cases_of(frame) if table.arms else []):
        try:
            data = data_of()
        except NothingToShow:
            continue
        written.append(plots.save(draw(data), folder / f"{data.name}.{form}"))
    return written


def page(table: AblationTable, frame: pd.DataFrame, folder: Path, refresh: int | None = None) -> str:
    """Make the page of a table and the frame that it was made of; its links lead from `folder`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("search.report.page", "."),
        autoescape=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else mask(value) if isinstance(value, str) else value,
    )
    root = folder_of(frame)
    ended = frame["finished_at"].dropna()
    return environment.get_template("page.html.j2").render(
        title=", ".join(frame["study"].dropna().unique()) or Path(str(frame.attrs.get("path", "study"))).name,
        verdict=verdict(table),
        cautions=gate(table.arms, table.metric),
        source=table.title,
        state=_state(frame),
        refresh=refresh,
        sections=sections(table, frame),
        sources=cell_sources(table, frame, folder),
        most_arms=MOST_ARMS,
        again=again(root),
        changes=[
            (change.at, [f"{name}: {old} became {new}" for name, (old, new) in change.changed.items()])
            for change in changes_of(frame)
        ],
        last=ended.max() if len(ended) else None,
        safe=Markup,
    )


def masked(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without secrets in what is shown of it."""
    known = {name: {text: mask(text) for text in frame[name].dropna().unique()} for name in SHOWN_TEXTS}
    columns = {name: frame[name].map(texts, na_action="ignore").astype("string") for name, texts in known.items()}
    found = frame.assign(**columns)
    found.attrs = frame.attrs
    return found


def _state(frame: pd.DataFrame) -> str:
    status = frame["status"]
    ended, open_ones = int((status != "unfinished").sum()), int((status == "unfinished").sum())
    return f"{ended:,} trials have ended" + (f", {open_ones:,} are running or were killed" if open_ones else "")


def cell_sources(table: AblationTable, frame: pd.DataFrame, folder: Path) -> list[CellSource]:
    """Where the numbers of each arm come from, in the order of the table; links lead from `folder` to what is there."""
    root = folder_of(frame)
    ids = dict(zip(frame["run_dir"].tolist(), frame["wandb_id"].tolist(), strict=True))
    by_arm = provenance_of_rows(table)
    found = []
    address = None
    for arm in table.data["arm"].tolist()[:MOST_ARMS]:
        known = by_arm[arm]
        if address is None and known["run_dirs"]:
            address = _wandb_address(root / known["run_dirs"][0])
        counts = ", ".join(f"{number} {name}" for name, number in known["counts"].items() if number)
        said = [
            counts or "no trial",
            f"seeds {int_ranges(known['seeds']) or 'none'}",
            f"commit {', '.join(known['commits']) or 'not on record'}",
            f"recipe {known['recipe_hash'] or 'unknown'}",
        ]
        runs = [_run(root, place, ids.get(place), address or "", folder) for place in known["run_dirs"]]
        found.append(CellSource(arm=one_line(arm, 400), said="; ".join(said), runs=runs))
    return found


def _run(root: Path, place: str, wandb_id: Any, address: str, folder: Path) -> Run:
    def link(path: Path) -> str | None:
        return quote(os.path.relpath(path, folder)) if path.exists() else None

    own = None if pd.isna(wandb_id) else str(wandb_id)
    online = f"{address}/runs/{quote(own)}" if address and own else None
    wandb = online or (link(root / place / "wandb") if own else None)
    config = root / place / ".hydra" / "config.yaml"
    return Run(place=place, folder=link(root / place), config=link(config), wandb_id=own, wandb=wandb)


def _wandb_address(run: Path) -> str:
    """The project's address where runs of this one's study were sent to a server; "" where they were not, or nobody knows whose it is."""
    tracker = _yaml(run / ".hydra" / "config.yaml").get("tracker")
    if not isinstance(tracker, dict) or tracker.get("mode") != "online":
        return ""
    parts = [tracker.get(name) for name in ("entity", "project")]
    if not all(isinstance(part, str) and "${" not in part for part in parts):
        return ""
    return "/".join(["https://wandb.ai", *(quote(str(part), safe="") for part in parts)])


def again(root: Path) -> str | None:
    """The command that makes the study again, or goes on with it, as its `multirun.yaml` has it; None where there is none."""
    given = _yaml(root / "multirun.yaml").get("hydra")
    overrides = given.get("overrides") if isinstance(given, dict) else None
    if not isinstance(overrides, dict):
        return None
    lists = [overrides.get(name) for name in ("task", "hydra")]
    words = [str(word) for each in lists if isinstance(each, list) for word in each if word != "hydra.mode=MULTIRUN"]
    return mask(shlex.join(["python", "-m", "search", "-m", *words]))


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
