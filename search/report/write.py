"""Writes a study's ablation table into files; a study calls it at its end, `xvol-table` at any time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from search.ledger.changes import CHANGES_FILE
from search.ledger.design_file import DESIGN_FILE
from search.ledger.files import write_atomic
from search.ledger.objectives_file import OBJECTIVES_FILE
from search.report.export import to_csv, to_latex, to_markdown
from search.report.front import front_to_csv, front_to_markdown, fronts_of
from search.report.grid.grid import Grid, make_grid
from search.report.grid.latex import grid_to_latex
from search.report.reading.load import load_study
from search.report.reading.trials_file import shared_trials
from search.report.save import parquet, save_tidy
from search.report.sequential_table import LOOKS_FILE
from search.report.sources import all_sources, provenance_text
from search.report.spec import TableSpec
from search.report.table import AblationTable, ablation_table
from search.report.table_html import table_to_html
from search.report.trust.text import trust_notes
from search.report.words import decimals_for, interval_decimals

__all__ = ["FORMATS", "PAPER_TEX", "paper_grid", "save_table", "save_trials", "with_trust", "write_tables"]

FORMATS = ("md", "tex", "csv", "html", "parquet")
NAME = "ablation"
FRONT = "front"
PAPER_TEX = f"{NAME}_paper.tex"
TRIALS = "trials.csv"
BESIDE = (
    DESIGN_FILE,
    LOOKS_FILE,
    CHANGES_FILE,
    OBJECTIVES_FILE,
)  # files of a study's folder that say how its trials are to be compared


def write_tables(study_dir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> AblationTable:
    """Make the table of a study from what its folder holds and write it in every format.

    With several objectives the Pareto fronts of its phases go beside it: `front.csv`, `front.md`.

    Args:
        study_dir: `runs/<study>`.
        out: folder for the files; by default `runs/<study>/tables`.

    Raises:
        ValueError: as `load_study` and `ablation_table`.
        OSError: the files cannot be written.
    """
    frame = load_study(study_dir)
    table = with_trust(ablation_table(frame), frame)
    folder = Path(out) if out is not None else Path(study_dir) / "tables"
    save_table(table, folder, paper_grid(frame, table))
    fronts = fronts_of(frame)
    if fronts:
        write_atomic(folder / f"{FRONT}.csv", front_to_csv(fronts))
        write_atomic(folder / f"{FRONT}.md", front_to_markdown(fronts))
    save_trials(frame, folder)
    return table


def save_trials(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Write `folder/trials.csv`, from which alone the table can be made again, and copies of what the study declared.

    Raises:
        OSError: the files cannot be written.
    """
    written = [save_tidy(shared_trials(frame), folder / TRIALS)]
    for name in BESIDE:
        declared = Path(str(frame.attrs.get("path"))) / name
        if declared.is_file() and declared.parent.resolve() != folder.resolve():
            write_atomic(folder / name, declared.read_bytes())
            written.append(folder / name)
    return written


def with_trust(table: AblationTable, frame: pd.DataFrame) -> AblationTable:
    """Add what is known of proxy trust to the notes of a table that was made of `frame`."""
    return replace(table, notes=[*table.notes, *trust_notes(frame, table)])


def paper_grid(frame: pd.DataFrame, table: AblationTable) -> Grid | None:
    """Make the grid behind the LaTeX for a paper: means with marks, parameters and MACs of the same arms.

    It has the baseline, the correction and the digits of the table, and its conclusion among the comments. Latencies are
    left to the table: a grid shows their mean over trials, the table their median.

    Args:
        frame: every trial of the study.
        table: the table made of it.

    Returns:
        The grid, or None where the table has no row: no trial got as far as a network.
    """
    if not table.arms:
        return None
    finished = frame[(frame["phase"] == table.phase) & (frame["status"] == "ok")]
    costs = [name for name in ("params", "macs") if finished[name].notna().any()]
    own = [arm.label for arm in table.arms if arm.is_baseline] == [table.baseline]
    grid = make_grid(
        frame,
        TableSpec(
            name=NAME,
            caption=table.title,
            metrics=(table.metric.column, *costs),
            baseline=None if own else table.baseline,
            phase=table.phase,
            correction=table.judging.correction,
            margin=table.judging.margin,
        ),
    )
    digits = decimals_for(table.data["sd"].dropna().tolist(), table.metric.decimals)
    intervals = table.data[["ci_low", "ci_high"]].dropna().itertuples(index=False, name=None)
    shown = {table.metric.column: (digits, interval_decimals(intervals, digits))}
    trust = [note for note in table.notes if note.startswith("Proxy trust")]
    legend = [note for note in grid.legend if note not in table.conclusion]
    return replace(grid, digits=grid.digits | shown, legend=[table.conclusion, *legend, *trust])


def save_table(table: AblationTable, folder: Path, grid: Grid | None, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write `folder/ablation.<format>` for each format, each file whole or not at all.

    CSV and Parquet hold numbers only: their conclusion and notes stand in `ablation.notes.txt` beside the CSV. Which runs
    each row comes from stands in `ablation.provenance.json`, and in the titles of the HTML's figures. There are two files
    of LaTeX, of the same figures: `ablation_paper.tex` is the one for a paper, means with marks, parameters and MACs,
    aligned by siunitx; `ablation.tex` has every column of the table and needs booktabs alone.

    Args:
        table: the table.
        folder: created where it does not exist.
        grid: what `paper_grid` makes of it; without one there is no LaTeX for a paper.
        formats: some of `FORMATS`.

    Returns:
        The paths that were written.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, str] = {}
    if "md" in formats:
        texts[f"{NAME}.md"] = to_markdown(table)
    if "tex" in formats:
        texts[f"{NAME}.tex"] = to_latex(table)
        if grid is not None:
            texts[PAPER_TEX] = grid_to_latex(grid)
    if "csv" in formats:
        texts[f"{NAME}.csv"] = to_csv(table)
        texts[f"{NAME}.notes.txt"] = "\n".join([table.title, "", table.conclusion, "", *table.notes, ""])
    sources = dict(zip((arm.label for arm in table.arms), all_sources(table.arms, table.metric.column), strict=True))
    if "html" in formats:
        texts[f"{NAME}.html"] = table_to_html(table, sources)
    if table.arms:
        cells = [{"row": label, "metric": table.metric.column, **each} for label, each in sources.items()]
        texts[f"{NAME}.provenance.json"] = provenance_text(table.title, cells)
    contents = {name: text.encode("utf-8", errors="backslashreplace") for name, text in texts.items()}
    if "parquet" in formats:
        contents[f"{NAME}.parquet"] = parquet(table.data)
    for name, content in contents.items():
        write_atomic(folder / name, content)
    return [folder / name for name in contents]
