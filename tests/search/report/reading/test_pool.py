"""Studies are pooled where their recipes agree, refused with the keys that differ, and compared where asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from search.cli.table import main
from search.report.ablation import ablation_table
from search.report.diff import DIFF_COLUMNS, diff_studies
from search.report.reading.load import load_pooled
from search.report.render import to_markdown

from ..conftest import Add, rewrite


@pytest.fixture
def two(study: Path, add: Add, tmp_path: Path) -> tuple[Path, Path]:
    """Two studies of one recipe, on other seeds."""
    for seed in range(3):
        for arm, shift in (("plain", 0.0), ("stage3", 1.0 + 0.1 * seed)):
            folder = add(arm, seed, test_top1=60.0 + seed + shift)
            (folder / ".hydra").mkdir()
            (folder / ".hydra" / "config.yaml").write_text(
                "train:\n  lr: 0.1\ndata:\n  name: digits\n  root: a\nseed: 1\n"
            )
    other = study.parent / "other"
    shutil.copytree(study, other)
    change(
        other,
        lambda row: row | {"study": "other", "seed": row["seed"] + 10, "test_top1": row["metrics"]["test_top1"] + 0.5},
    )
    return study, other


def change(study: Path, edit: Any) -> None:
    for path in study.rglob("result.json"):
        row = json.loads(path.read_text())
        rewrite(path, **edit(row))


def another_recipe(study: Path) -> None:
    change(study, lambda row: row | {"recipe_hash": "0000000000"})
    for path in study.rglob("config.yaml"):
        path.write_text(path.read_text().replace("0.1", "0.2").replace("root: a", "root: b"))


def test_pooled(two: tuple[Path, Path]) -> None:
    table = ablation_table(load_pooled(two))
    assert table.data.set_index("arm")["n"].to_dict() == {"plain": 6, "stage3": 6}
    assert table.title.startswith("demo + other: ")
    assert load_pooled(two)["run_dir"].iloc[0] == f"{two[0]}/final/0000-s0"


def test_a_seed_of_two_studies_counts_once(two: tuple[Path, Path]) -> None:
    change(two[1], lambda row: row | {"seed": row["seed"] - 10})
    table = ablation_table(load_pooled(two))
    assert table.data.set_index("arm")["mean"].to_dict()["plain"] == 61.0
    assert any("6 trials repeated an arm and seed" in note for note in table.notes)


def test_another_recipe_is_refused_and_its_keys_named(two: tuple[Path, Path]) -> None:
    another_recipe(two[1])
    with pytest.raises(ValueError, match=r"train.lr \(0.1 against 0.2\)") as fault:
        load_pooled(two)
    assert "data.root" not in str(fault.value)
    shutil.rmtree(two[1] / "final" / "0000-s0" / ".hydra")
    with pytest.raises(ValueError, match=r"no readable .hydra/config.yaml in .*other/final/0000-s0"):
        load_pooled(two)


def test_what_cannot_be_pooled(two: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="given more than once"):
        load_pooled([two[0], f"{two[0]}/"])
    change(two[1], lambda row: row | {"phase": "search"})
    with pytest.raises(ValueError, match="other has no trial of phase 'final'"):
        load_pooled(two)


def test_diff(two: tuple[Path, Path], add: Add) -> None:
    add("stage4", 0, test_top1=50.0)
    another_recipe(two[1])
    change(two[1], lambda row: row | {"seed": row["seed"] - 10, "provenance": row["provenance"] | {"commit": "fff"}})
    diff = diff_studies(*two)
    assert {name: str(dtype) for name, dtype in diff.data.dtypes.items()} == DIFF_COLUMNS
    assert diff.data["arm"].tolist() == ["plain", "stage3"]
    assert diff.data["diff"].tolist() == pytest.approx([0.5, 0.5])
    assert diff.data["n_paired"].tolist() == [3, 3]
    assert diff.notes[:2] == ["train.lr: 0.1 in A, 0.2 in B", "commit: 0123456789ab in A, fff in B"]
    assert diff.conclusion == "1 arm only in A: stage4. 2 settings differ:"
    text = to_markdown(diff)
    assert "- train.lr: 0.1 in A, 0.2 in B" in text
    assert "1 arm only in A: stage4." in text
    assert "different recipes" in text


def test_diff_of_other_seeds_is_welchs(two: tuple[Path, Path]) -> None:
    diff = diff_studies(*two)
    row = diff.data.iloc[0]
    test = stats.ttest_ind([60.5, 61.5, 62.5], [60.0, 61.0, 62.0], equal_var=False)
    assert (row["n_paired"], row["diff"], row["p_value"]) == (0, pytest.approx(0.5), pytest.approx(test.pvalue))
    assert "Welch" in to_markdown(diff)
    assert "No setting on record differs." in to_markdown(diff)


@pytest.mark.slow
def test_command_line(two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, two)
    assert main([a, b, "--no-write"]) == 0
    assert "demo + other" in capsys.readouterr().out
    assert main([a, b]) == 2
    assert "name one with --out" in capsys.readouterr().err
    assert main(["--diff", a, b, "--out", str(tmp_path / "d")]) == 0
    assert (tmp_path / "d" / "diff.md").read_text() == capsys.readouterr().out
    assert main(["--diff", a]) == 2
    assert "--diff takes two studies" in capsys.readouterr().err
    assert main(["--diff", a, b, "--rows", "where"]) == 2
    assert "--rows" in capsys.readouterr().err
    assert main([a, "--tidy", str(tmp_path / "t.parquet")]) == 0
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == 6
    assert main([a, "--tidy", str(tmp_path / "t.xls")]) == 2
    spec = tmp_path / "mine.yaml"
    spec.write_text("metrics: [test_top1]\nshow: diff\n")
    assert main([a, "--spec", str(spec), "--format", "html", "--digits", "1"]) == 0
    assert "<table>" in capsys.readouterr().out.split("<body>")[1]
    assert sorted(path.name for path in (two[0] / "tables").iterdir()) == ["mine.html", "mine.provenance.json"]
    assert main([a, "--metric", "val_top1", "--metrics", "test_top1"]) == 2
