"""The sweep over timm, on its smallest case: one model, in a process of its own, into a file of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "timm_sweep.py"
ONE = """
import sys, warnings
sys.path.insert(0, {folder!r})
import torch, timm_sweep
torch.set_num_threads(1)
warnings.simplefilter("ignore")
known = {{"model": {model!r}, "family": "resnet", "params": {params}}}
import json
print(json.dumps(timm_sweep._one({model!r}, known, 100.0, 1e7, 9)))
"""


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=200, check=False, cwd=ROOT
    )


def one(model: str, params: float) -> dict[str, Any]:
    done = run("-c", ONE.format(folder=str(SCRIPT.parent), model=model, params=params))
    assert done.returncode == 0, done.stderr
    row: dict[str, Any] = json.loads(done.stdout)
    return row


@pytest.mark.slow
def test_one_small_model_in_both_forms() -> None:
    row = one("test_resnet", 5e5)
    assert row["status"] == "ok"
    assert row["normed"] == row["sites"]
    for form in (row, row["keeps"]):
        assert form["converted"] == row["sites"]
        assert form["eval_equal"]
        assert form["train_equal"]
        assert form["eval_after_equal"]
        assert 0 <= form["fused_error_64"] < 1e-9 < form["felt"]


@pytest.mark.slow
def test_a_large_model_is_skipped_with_the_limit() -> None:
    assert one("resnet50", 2.5e7)["status"] == "skipped: above 10 M parameters"


@pytest.mark.slow
@pytest.mark.parametrize("share", ["0/2", "3/2", "half"])
def test_a_share_that_is_none(share: str) -> None:
    done = run(str(SCRIPT), "--shard", share)
    assert done.returncode == 2
    assert f"'{share}' must be I/N with 1 <= I <= N" in done.stderr
