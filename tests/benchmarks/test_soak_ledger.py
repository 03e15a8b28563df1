"""The audit of a soak sees what was trained twice over studies, and copies whose source is gone."""

from __future__ import annotations

import sys
from pathlib import Path

from search.ledger.result import TrialResult, write_result

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from soak_audit import Audit
from soak_ledger import audit_runs


def add(root: Path, place: str, fingerprint: str, reused_from: str | None = None) -> None:
    folder = root / place
    folder.mkdir(parents=True)
    row = TrialResult(study=place.partition("/")[0], trial=0, phase="search", status="ok", seed=0, run_dir=place)
    row.fingerprint, row.reused_from = fingerprint, reused_from
    write_result(folder, row)


def test_runs_of_several_studies(tmp_path: Path) -> None:
    add(tmp_path, "a/trials/0000-s0", "one")
    add(tmp_path, "b/trials/0000-s0", "one", reused_from="a/trials/0000-s0")
    add(tmp_path, "b/trials/0001-s0", "two")
    found = Audit()
    audit_runs(found, tmp_path)
    assert (found.double, found.lost, found.remarks) == (0, 0, [])
    add(tmp_path, "c/trials/0000-s0", "one")
    add(tmp_path, "c/trials/0001-s0", "two", reused_from="b/trials/0000-s0")
    audit_runs(found, tmp_path)
    assert (found.double, found.lost) == (1, 1)
    assert "one was trained to its end in" in found.remarks[0]
