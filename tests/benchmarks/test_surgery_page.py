"""The page of the sweep, from rows of each kind."""

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(model: str, **more: object) -> dict[str, object]:
    return {"model": model, "family": "a", "params": 10, "status": "ok", "sites": 2, "refused": {}, **more}


def test_the_page_counts_and_keeps_what_stands_around_its_marks(tmp_path: Path) -> None:
    equal = dict.fromkeys(("eval_equal", "train_equal", "eval_after_equal", "forward_ok"), True)
    fused = {"fused_error_64": 1e-15, "felt": 0.5}
    rows = [
        row("good", **equal, **fused, normed=0),
        row("both", **equal, **fused, normed=1, keeps=equal | fused),
        row("half", **equal, **fused, normed=1, keeps=equal | fused | {"train_equal": False}),
        row("silent", **equal, fused_error_64=0.0, felt=0.0, normed=0),
        row("none", status="no sites", sites=0, refused={"why": 3}),
        row("large", sites=0, status="skipped: above 150 M parameters"),
    ]
    (tmp_path / "docs" / "results").mkdir(parents=True)
    page = tmp_path / "docs" / "surgery.md"
    page.write_text("above\n<!-- sweep -->\nold\n<!-- end of sweep -->\nbelow\n")
    survey = {str(each["model"]): {"convolutional": True} for each in [*rows, {"model": "other"}]}
    load("surgery_page").render({str(each["model"]): each for each in rows}, survey, tmp_path)
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "old" not in text
    assert "| converted, bitwise equal, fused equal | 2 |" in text
    assert "| converted, but something is not equal | 2 |" in text, "an error of 0 counts only where the branches speak"
    assert "| not run yet | 1 |" in text
    assert "| every norm stays where it is | 4 | 8 | 4 | 3 | 4 | 3 |" in text
    assert "| each batch norm behind a host goes into the block | 2 | 4 | 2 | 2 | 2 | 2 |" in text
    assert "| a | 6 | 4 | 8 | 2 | 2 | 2 | 1 |" in text
    assert "| why | 3 | 1 |" in text
    assert len((tmp_path / "docs" / "results" / "timm_surgery.csv").read_text().splitlines()) == 7
