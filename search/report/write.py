"""Writes a study's ablation table into files; a study calls it at its end, `xvol-table` at any time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from search.ledger.result import write_atomic
from search.report.export import to_csv, to_latex, to_markdown
from search.report.load import load_study
from search.report.sources import all_sources, provenance_text
from search.report.table import AblationTable, ablation_table

__all__ = ["FORMATS", "save_table", "write_tables"]

FORMATS = ("md", "tex", "csv")


def write_tables(study_dir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> AblationTable:
    """Make the table of a study from what its folder holds and write it in every format.

    Args:
        study_dir: `runs/<study>`.
        out: folder for the files; by default `runs/<study>/tables`.

    Raises:
        ValueError: as `load_study` and `ablation_table`.
        OSError: the files cannot be written.
    """
    table = ablation_table(load_study(study_dir))
    save_table(table, Path(out) if out is not None else Path(study_dir) / "tables")
    return table


def save_table(table: AblationTable, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write `folder/ablation.<format>` for each format, each file whole or not at all.

    The CSV holds numbers only: its conclusion and notes stand in `ablation.notes.txt` beside it. Which runs each row
    comes from stands in `ablation.provenance.json`.

    Returns:
        The paths that were written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {}
    if "md" in formats:
        texts["ablation.md"] = to_markdown(table)
    if "tex" in formats:
        texts["ablation.tex"] = to_latex(table)
    if "csv" in formats:
        texts["ablation.csv"] = to_csv(table)
        texts["ablation.notes.txt"] = "\n".join([table.title, "", table.conclusion, "", *table.notes, ""])
    if table.arms:
        sources = all_sources(table.arms, table.metric.column)
        cells = [
            {"row": arm.label, "metric": table.metric.column, **each}
            for arm, each in zip(table.arms, sources, strict=True)
        ]
        texts["ablation.provenance.json"] = provenance_text(table.title, cells)
    for name, text in texts.items():
        write_atomic(folder / name, text)
    return [folder / name for name in texts]
