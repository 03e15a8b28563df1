"""Writes a grid, and the tidy frame, into files, each whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from search.ledger.files import write_atomic
from search.report.grid.grid import Grid
from search.report.grid.html import grid_to_html
from search.report.grid.latex import grid_to_latex
from search.report.grid.text import grid_data, grid_to_markdown
from search.report.sources import provenance_text

__all__ = ["GRID_FORMATS", "grid_sources", "grid_text", "save_grid", "save_tidy"]

GRID_FORMATS = ("md", "tex", "html", "csv", "parquet")


def grid_text(grid: Grid, form: str) -> str:
    """Format a grid as "md", "tex", "html" or "csv"."""
    if form == "csv":
        return grid_data(grid).to_csv(index=False, lineterminator="\n")
    return {"md": grid_to_markdown, "tex": grid_to_latex, "html": grid_to_html}[form](grid)


def grid_sources(grid: Grid) -> list[dict[str, Any]]:
    """Return where each cell comes from, by row, column and metric; see `all_sources`."""
    return [
        {"row": row.name, "column": group or None, "metric": cell.metric.column, "arm": cell.arm.label, **cell.sources}
        for row, group, cell in grid.cells
    ]


def save_grid(grid: Grid, folder: Path, formats: Sequence[str] = GRID_FORMATS) -> list[Path]:
    """Write `folder/<name>.<format>` for each format, and `<name>.provenance.json`; return the paths.

    Raises:
        OSError: the files cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents: dict[str, bytes] = {}
    for form in formats:
        name = f"{grid.spec.name}.{form}"
        contents[name] = parquet(grid_data(grid)) if form == "parquet" else grid_text(grid, form).encode()
    contents[f"{grid.spec.name}.provenance.json"] = provenance_text(grid.title, grid_sources(grid)).encode()
    for name, content in contents.items():
        write_atomic(folder / name, content)
    return [folder / name for name in contents]


def save_tidy(frame: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write the frame of `load_study` as Parquet or CSV, as the name of `path` ends.

    Parquet keeps the dtypes: `pandas.read_parquet(path, dtype_backend="numpy_nullable")` reads them back. A CSV reads
    back with `pandas.read_csv(path, dtype=...)` and the dtypes of `COLUMNS`.

    Raises:
        ValueError: the name ends otherwise.
        OSError: the file cannot be written.
    """
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
