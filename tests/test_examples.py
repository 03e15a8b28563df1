"""Each example runs, and prints what it promises."""

import importlib.util
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SAYS = {
    "drop_in_layer": ["accuracy after 30 steps: ", "1 blocks fused, 0 of them", "FusedXVolution2d("],
    "convert_pretrained": ["weights: random", "the logits are bitwise the same: True", "4 blocks fused"],
    "fuse_and_export": ["8 blocks fused", "refused, as it should be: ", "model.pt2: logits differ by "],
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    for part in SAYS[name]:
        assert part in said
    if name == "fuse_and_export":
        there = all(importlib.util.find_spec(package) for package in ("onnx", "onnxruntime", "onnxscript"))
        assert ("model.onnx: logits differ by " in said) == there
