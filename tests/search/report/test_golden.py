"""Each rendering of one study as a file that a reader of a change can look at.

XVOL_GOLDEN=write python -m pytest tests/search/report/test_golden.py      writes them anew; look at what git shows
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from search.ledger.study_files import CHANGES_FILE
from search.report.ablation import DATA_COLUMNS
from search.report.pivot import pivot_table
from search.report.reading.load import load_study
from search.report.render import render_text
from search.report.spec import spec_of
from search.report.write import save_pivot, write_tables

from .conftest import Add

GOLDEN = Path(__file__).parent / "golden"
BASE = [48.21, 49.08, 48.66, 48.93, 48.57]
SHIFTS: dict[str, list[float | None]] = {
    "plain": [0.0] * 5,
    "stage2: conv+pssa": [0.9, 0.4, 0.7, 1.1, 0.62],
    "stage3: conv+pssa": [0.3, -0.2, 0.4, -0.35, 0.1],
    "stage4: pssa": [2.1, 1.9, None, 2.2, 2.05],  # failed on a seed
}
CHANGE = """\
{"at": "2026-11-28T10:00:00+00:00", "settings": {"design.seeds": 3}}
{"at": "2026-11-29T10:00:00+00:00", "changed": {"design.seeds": [3, 5]}, "results": 12, "seeds_added": true, "settings": {}}
"""


@pytest.fixture
def made(study: Path, add: Add) -> Path:
    """The folder of every rendering of a study in which all kinds of rows are."""
    for seed, base in enumerate(BASE):
        for number, (arm, shifts) in enumerate(SHIFTS.items()):
            shift = shifts[seed]
            row: dict[str, Any] = {"status": "failed", "reason": "loss became NaN at step 12"}
            if shift is not None:
                row = {"test_top1": base + shift, "latency_ms": 1.5 + number / 2, "latency_fused_ms": 1.2 + number / 2}
            add(arm, 1000 + seed, params=78_002 + 1500 * number, macs=1_038_976 + 30_000 * number, **row)
    (study / CHANGES_FILE).write_text(CHANGE)
    folder = study / "tables"
    table = write_tables(study)
    (folder / "ablation.txt").write_text(render_text(table), encoding="utf-8")
    fields = {"name": "grid", "rows": "where", "columns": "what", "metrics": ["test_top1", "params"], "margin": 0.5}
    save_pivot(pivot_table(load_study(study), spec_of(fields)), folder, ("md", "tex", "html"))
    return folder


TEXTS = ["ablation.txt", "ablation.md", "ablation.tex", "ablation_paper.tex", "ablation.html", "ablation.notes.txt"]


def test_each_rendering_is_as_it_was(made: Path) -> None:
    names = [*TEXTS, "ablation.csv", "grid.md", "grid.tex", "grid.html"]
    if os.environ.get("XVOL_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        for name in names:
            (GOLDEN / name).write_bytes((made / name).read_bytes())
    for name in names:
        if name.endswith(".csv"):  # at full precision, whose last digits are the machine's
            now, then = (pd.read_csv(folder / name, dtype=DATA_COLUMNS) for folder in (made, GOLDEN))
            pd.testing.assert_frame_equal(now, then, rtol=1e-9)
        else:
            assert (made / name).read_text(encoding="utf-8") == (GOLDEN / name).read_text(encoding="utf-8"), name
