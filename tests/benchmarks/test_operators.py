"""The operators' benchmark, end to end at one small shape: it runs, and it writes what its page needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from xvol import branch_names

ROOT = Path(__file__).resolve().parents[2]
SMALL = """
import sys
sys.path.insert(0, {folder!r})
import operators
operators.SHAPES = ((64, 8), (64, 8))
sys.argv = ["operators.py", "--batch", "2", "--rounds", "1", "--resnet-rounds", "0", "--no-compile", "--json", {out!r}]
operators.main()
"""


@pytest.mark.slow
def test_one_small_shape(tmp_path: Path) -> None:
    out = tmp_path / "operators.json"
    code = SMALL.format(folder=str(ROOT / "benchmarks"), out=str(out))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    assert results["machine"]["batch"] == 2
    kinds = {(row["shape"], row["kind"]) for row in results["speed"]}
    assert kinds == {("64x8x8", kind) for kind in ("inference", "forward", "forward+backward")}
    rivals = {row["name"].removeprefix("conv + ") for row in results["speed"] if row["name"].startswith("conv + ")}
    assert rivals == set(branch_names()) - {"conv", "identity", "pssa"}
    assert all(row["ratio"] > 0 for row in [*results["speed"], *results["memory"]])
    assert out.with_suffix(".md").read_text().startswith("#")
    assert "64x8x8" in done.stdout
