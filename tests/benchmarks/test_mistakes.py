"""Wrong command lines are refused; here a sample of the list, all of them by `.ci/run`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "mistakes.py"


@pytest.fixture(scope="module")
def mistakes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mistakes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mistakes"] = module
    spec.loader.exec_module(module)
    return module


def test_the_list_is_long_and_holds_every_command(mistakes: ModuleType) -> None:
    lines = mistakes.read_lines()
    assert len(lines) >= 500
    assert {line.words[0] for line in lines} >= {"search", "xvol-table", "xvol-plan", "xvol-export", "xvol-sites"}
    assert all(all(line.pieces) for line in lines)


def test_a_fault_is_seen(mistakes: ModuleType) -> None:
    line = mistakes.Line("early", "search x", ("given",))
    good = mistakes.Answer(1, "xvol-search: given", (), (), 0.1)
    assert list(mistakes.faults(line, good)) == []
    trace = "Traceback (most recent call last):"
    bad = mistakes.Answer(0, trace, ("runs",), ("torch",), 0.1)
    said = " ".join(mistakes.faults(line, bad))
    for part in ("taken", "a trace", "without 'given'", "written: runs", "torch was loaded"):
        assert part in said
    assert "taken: it ran on" in list(mistakes.faults(line, mistakes.Answer(None, "given", (), (), 0.1)))


@pytest.mark.slow
def test_a_sample_of_the_lines_is_answered_rightly() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--every", "29", "--real", "9"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
