"""Each example runs, and prints what it promises."""

import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from search.data.folder import list_pictures

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SAYS = {
    "drop_in_layer": ["accuracy after 30 steps: ", "1 blocks fused, 0 of them", "FusedXVolution2d("],
    "convert_pretrained": ["weights: random", "the logits are bitwise the same: True", "4 blocks fused"],
    "own_branch": ["mine passes every check", "fused, the block differs by ", "(dynamic): ModuleList("],
    "picture_folder": ["200 pictures for training, 50 for the test, 10 classes: "],
    "fuse_and_export": ["8 blocks fused", "refused, as it should be: ", "model.pt2: logits differ by "],
}


OF_DIGITS = ["--data=digits", "--train=200", "--test=50"]  # of which nothing has to be fetched


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = EXAMPLES / f"{name}.py"
    if name == "own_branch":  # in a process of its own: no other test is to see its branch
        said = subprocess.run([sys.executable, path], check=True, capture_output=True, text=True).stdout
    else:
        given = [str(tmp_path / "made"), *OF_DIGITS] if name == "picture_folder" else []
        monkeypatch.setattr(sys, "argv", [path.name, *given])
        runpy.run_path(str(path), run_name="__main__")
        said = capsys.readouterr().out
    for part in SAYS[name]:
        assert part in said
    if name == "picture_folder":
        listing = list_pictures(tmp_path / "made")
        assert (len(listing.files), listing.labelled.official_test, len(listing.labelled.classes)) == (250, 50, 10)
    if name == "fuse_and_export":
        there = all(importlib.util.find_spec(package) for package in ("onnx", "onnxruntime", "onnxscript"))
        assert ("model.onnx: logits differ by " in said) == there


@pytest.mark.slow
def test_the_notebook_runs_and_shows_its_table_and_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(EXAMPLES / "study.ipynb", 4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # nothing in it but what is to be run
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert sum("image/png" in output["data"] for output in shown) == 2
    tables = [output["data"]["text/html"] for output in shown if "AblationTable" in output["data"]["text/plain"]]
    assert len(tables) == 2
    assert all("<table>" in table and "plain (baseline)" in table for table in tables)
