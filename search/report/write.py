"""Writes tables into files, each whole or not at all; a study calls it at its end, `xvol-table` at any time."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from search.ledger.files import write_atomic
from search.ledger.study_files import CHANGES_FILE, DESIGN_FILE, LOOKS_FILE, OBJECTIVES_FILE
from search.report.ablation import AblationTable, ablation_table, digits_of
from search.report.front import front_table, fronts_data, fronts_of
from search.report.interim import interim_table
from search.report.paper import paper_form
from search.report.pivot import PivotTable, pivot_table
from search.report.provenance import provenance_of_arms, provenance_text, provenance_title
from search.report.reading.load import load_study
from search.report.reading.rows import shared_trials
from search.report.render import RENDERERS, to_markdown
from search.report.render.latex_float import to_float
from search.report.spec import TableSpec
from search.report.table import Table
from search.report.trust import trust_notes
from search.report.values import GIVEN

FORMATS = ("md", "tex", "csv", "html", "parquet")
TEXT_FORMATS = ("md", "tex", "csv")  # of tables that nothing else is made of
TRIALS = "trials.csv"
BESIDE = (DESIGN_FILE, LOOKS_FILE, CHANGES_FILE, OBJECTIVES_FILE)  # they say how a study's trials are to be compared


def write_tables(study_dir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> AblationTable:
    """Make the table of a study from what its folder holds and write it in every format into `out`, by default its `tables/`.

    With several objectives the Pareto fronts of its phases go beside it: `front.csv`, `front.md`. ValueError as `load_study` and
    `ablation_table`, OSError where the files cannot be written.
    """
    frame = load_study(study_dir)
    table = with_trust(ablation_table(frame), frame)
    folder = Path(out) if out is not None else Path(study_dir) / "tables"
    save_table(table, folder, paper_grid(frame, table))
    fronts = fronts_of(frame)
    if fronts:
        write_atomic(folder / "front.csv", fronts_data(fronts).to_csv(index=False, lineterminator="\n"))
        write_atomic(folder / "front.md", "\n".join(to_markdown(front_table(front)) for front in fronts))
    save_trials(frame, folder)
    return table


def write_interim(study_dir: str | os.PathLike[str]) -> Table | None:
    """Write `tables/sequential.md` and `tables/sequential.csv` of a study with looks, and return the table; None without looks."""
    table = interim_table(study_dir)
    if table is not None:
        save_files(table, Path(study_dir) / "tables", ("md", "csv"))
    return table


def save_trials(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Write `folder/trials.csv`, from which alone the table can be made again, and copies of what the study declared."""
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


def paper_grid(frame: pd.DataFrame, table: AblationTable) -> Table | None:
    """Make the form of a table for a column of a paper: arms in words, means with marks, parameters and MACs.

    It has the baseline, the correction and the digits of the table, and its conclusion among the comments. Latencies are
    left to the table: a grid shows their mean over trials, the table their median. None where the table has no row: no trial
    got as far as a network.
    """
    if not table.arms:
        return None
    costs = measured_costs(frame, table.phase)
    own = [arm.label for arm in table.arms if arm.is_baseline] == [table.baseline]
    asked: dict[str, Any] = (
        {} if table.phase == GIVEN else {"metrics": (table.metric.column, *costs), "phase": table.phase}
    )
    grid = pivot_table(
        frame,
        TableSpec(
            name=table.name,
            caption=table.title,
            baseline=None if own else table.baseline,
            correction=table.judging.correction,
            margin=table.judging.margin,
            **asked,
        ),
        digits={table.metric.column: digits_of(table.data, table.metric)},
    )
    trust = [note for note in table.notes if note.startswith("Proxy trust")]
    legend = [note for note in grid.notes if note not in table.conclusion]
    form = paper_form(replace(grid, conclusion=table.conclusion, notes=legend), frame, wide=False)
    return replace(form, beside=("", [*form.beside[1], *trust]))


def measured_costs(frame: pd.DataFrame, phase: str) -> tuple[str, ...]:
    """The sizes of a network that some finished trial of a phase has."""
    finished = frame[(frame["phase"] == phase) & (frame["status"] == "ok")]
    return tuple(name for name in ("params", "macs") if finished[name].notna().any())


def save_table(table: AblationTable, folder: Path, grid: Table | None, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write `folder/ablation.<format>` for each format, each file whole or not at all; return the paths.

    CSV and Parquet hold numbers only: their conclusion and notes stand in `ablation.notes.txt` beside the CSV. Which runs
    each row comes from stands in `ablation.provenance.json`, and in the titles of the HTML's figures. There are two files
    of LaTeX, of the same figures: `ablation_paper.tex`, made of what `paper_grid` gives, is the float for a paper: means with marks,
    parameters and MACs, aligned by siunitx; `ablation.tex` has every column of the table and needs booktabs alone.
    """
    provenance = provenance_of_rows(table)
    more: dict[str, str] = {}
    if "tex" in formats and grid is not None:
        more[f"{table.name}_paper.tex"] = to_float(grid, label=f"tab:{table.name}", comments=grid.beside[1])
    if "csv" in formats:
        more[f"{table.name}.notes.txt"] = "\n".join([table.title, "", table.conclusion, "", *table.notes, ""])
    if table.arms:
        cells = [{"row": label, "metric": table.metric.column, **each} for label, each in provenance.items()]
        more[f"{table.name}.provenance.json"] = provenance_text(table.title, cells)
    return save_files(with_provenance(table, provenance), folder, formats, more)


def provenance_of_rows(table: AblationTable) -> dict[str, dict[str, Any]]:
    """Say where the figures of each arm come from, by its label; see `provenance_of_arms`."""
    return dict(
        zip((arm.label for arm in table.arms), provenance_of_arms(table.arms, table.metric.column), strict=True)
    )


def with_provenance(table: AblationTable, provenance: Mapping[str, Mapping[str, Any]]) -> AblationTable:
    """Give each row a title that says where it comes from."""
    labels = table.data["arm"].tolist()
    rows = [row._replace(title=provenance_title(provenance[at])) for row, at in zip(table.rows, labels, strict=True)]
    return replace(table, rows=rows)


def save_pivot(table: PivotTable, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write `folder/<name>.<format>` for each format, and `<name>.provenance.json`; return the paths."""
    provenance = provenance_text(table.title, table.provenance)
    return save_files(table, folder, formats, {f"{table.name}.provenance.json": provenance})


def save_files(table: Table, folder: Path, formats: Sequence[str], more: Mapping[str, str] | None = None) -> list[Path]:
    """Write `folder/<name>.<format>` for each format, and the texts of `more` by their names; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)

    def encoded(text: str) -> bytes:
        return text.encode("utf-8", errors="backslashreplace")

    contents = {
        f"{table.name}.{form}": parquet(table.data) if form == "parquet" else encoded(RENDERERS[form](table))
        for form in formats
    }
    contents |= {name: encoded(text) for name, text in (more or {}).items()}
    for name, content in contents.items():
        write_atomic(folder / name, content)
    return [folder / name for name in contents]


def save_tidy(frame: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write the frame of `load_study` as Parquet or CSV, as the name of `path` must end; `load_study` reads them back."""
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise ValueError(f"{path}: the tidy frame is written as .parquet or .csv; end the name in one of them")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = parquet(frame) if path.suffix == ".parquet" else frame.to_csv(index=False, lineterminator="\n").encode()
    write_atomic(path, content)
    return path


def parquet(frame: pd.DataFrame) -> bytes:
    """Return a frame as Parquet."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, engine="pyarrow")
    return buffer.getvalue()
