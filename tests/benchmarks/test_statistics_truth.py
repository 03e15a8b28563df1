"""The simulated studies, a few of them, end to end; and a page that names every target that was missed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_few_studies(tmp_path: Path) -> None:
    out = tmp_path / "truth.json"
    command = [sys.executable, "benchmarks/statistics_truth.py", "--studies", "20", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    assert {row["section"].split(",")[0] for row in results["rows"]} == {
        "coverage of 95% intervals",
        "corrections over rows",
        "power of the paired t test",
        "equivalence (TOST)",
        "sequential rule",
        "factorial designs",
        "proxy trust",
        "orders nested in roots",
    }
    assert all(row["studies"] == 20 for row in results["rows"])
    assert results["facts"]["versions"]["statsmodels"]
    text = out.with_suffix(".md").read_text()
    judged = [row for row in results["rows"] if row["target"]]
    missed = [row for row in judged if row["result"] == "NOT met"]
    assert f"{len(judged)} figures have a target" in text
    assert f"{len(missed)} do not meet it" in text
    for row in missed:
        assert f"- {row['what']}, {row['setting']}: {row['value']:.3f} (target {row['target']})" in text


def test_the_committed_report_is_of_enough_studies() -> None:
    results = json.loads((ROOT / "docs/results/statistics_truth.json").read_text())
    assert min(row["studies"] for row in results["rows"]) >= 2000
    missed = [row["what"] for row in results["rows"] if row["result"] == "NOT met"]
    assert all(what.startswith("bootstrap") for what in missed)  # said plainly; the t interval is the default
