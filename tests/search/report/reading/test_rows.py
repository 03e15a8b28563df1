"""A file of trials makes the same tables, to the last digit, as the runs it was written from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from search.cli.table import main
from search.ledger.study_files import Cell, write_design
from search.report.ablation import DATA_COLUMNS, ablation_table
from search.report.detections import PICTURES
from search.report.judging import ROOTS, Judging
from search.report.reading.load import load_study
from search.report.reading.rows import without_folders
from search.report.write import save_tidy, write_tables

from ..conftest import FACTS, Add

RESULTS = Path(__file__).parents[4] / "docs" / "results"
HOST = {"provenance": FACTS["provenance"] | {"host": "fn"}}


@pytest.fixture
def filled(study: Path, add: Add) -> Path:
    """Two phases, a failed seed, a folder without a result, latencies, digits that no rounding keeps."""
    for seed in range(5):
        for number, arm in enumerate(("plain", "stage3", 'naïve, "x"\n', "NA")):
            values: dict[str, Any] = {"test_top1": 100 / (seed + 1.7 + number / 9), "test_loss": 1 / (seed + 3)}
            values |= {"latency_ms": 1 / (3 + seed), "params": 2**62 + number, "zero_cost": {"zen": seed / 3}} | HOST
            if (number, seed) == (1, 3):
                values = {"status": "failed", "reason": "loss became NaN\nat step 3"}
            add(arm, seed, **values)
        add("stage3", seed, phase="search", val_top1=50 + seed / 3)
    (study / "final" / "0099-s7" / ".hydra").mkdir(parents=True)
    return study


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trials.csv", "trials.parquet"])
def test_every_number_and_word_comes_out_again(filled: Path, tmp_path: Path, name: str) -> None:
    write_tables(filled)
    path = filled / "tables" / "trials.csv"
    if name.endswith("parquet"):
        path = save_tidy(load_study(filled), tmp_path / name)
    here, there = load_study(filled), load_study(path)
    pd.testing.assert_frame_equal(there.drop(columns="provenance"), here.drop(columns="provenance"), check_exact=True)
    for options in (
        {},
        {"metric": "test_loss"},
        {"phase": "search"},
        {"judging": Judging(margin=0.5, interval="bootstrap")},
    ):
        ours, theirs = ablation_table(here, **options), ablation_table(there, **options)  # type: ignore[arg-type]
        pd.testing.assert_frame_equal(theirs.data, ours.data, check_exact=True)
        assert (theirs.title, theirs.conclusion, theirs.notes) == (ours.title, ours.conclusion, ours.notes)


@pytest.mark.slow
def test_the_command_prints_the_same_table_and_writes_nothing(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(filled)]) == 0
    printed = capsys.readouterr().out
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "trials.csv").write_bytes((filled / "tables" / "trials.csv").read_bytes())
    assert main([str(alone / "trials.csv")]) == 0
    assert capsys.readouterr().out == printed
    assert [path.name for path in alone.iterdir()] == ["trials.csv"]
    assert main([str(alone / "trials.csv"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "ablation.csv").read_bytes() == (filled / "tables" / "ablation.csv").read_bytes()


@pytest.mark.slow
def test_the_machine_is_not_named(filled: Path) -> None:
    write_tables(filled)
    shared = load_study(filled / "tables" / "trials.csv")
    made = [json.loads(text) for text in shared["provenance"].dropna()]
    assert made
    assert all("host" not in each and each["versions"]["torch"] == "2.13.0" for each in made if "versions" in each)


@pytest.mark.slow
def test_a_design_that_varies_the_recipe_is_declared_beside_the_file(study: Path, add: Add) -> None:
    cells = [Cell(f"lr={lr}", (f"train.lr={lr}",), {"lr": str(lr)}, is_baseline=lr == 0.1) for lr in (0.1, 0.2)]
    for seed in range(3):
        for cell in cells:
            lr = cell.factors["lr"]
            row = {
                "recipe_hash": f"r{lr}",
                "overrides": [*cell.overrides, f"seed={seed}"],
                "is_baseline": cell.is_baseline,
            }
            add("plain", seed, test_top1=60 + seed**2 * float(lr), **row)
    write_design(study, "one_at_a_time", cells)
    table = write_tables(study)
    again = ablation_table(load_study(study / "tables" / "trials.csv"))
    pd.testing.assert_frame_equal(again.data, table.data, check_exact=True)
    assert again.data["diff"].notna().sum() == 1


def test_what_is_no_file_of_trials_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.csv"
    for text, message in (("a,b\n1,2\n", "it lacks the columns study, phase"), ("", "is no file of trials")):
        path.write_text(text)
        assert main([str(path)]) == 2
        assert message in capsys.readouterr().err
    path.write_bytes(b"\xff\xfe\x00nonsense")
    assert main([str(path)]) == 2
    assert "is no file of trials" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("root", "shown"),
    [
        ("final/0000-s1", "final/0000-s1"),
        ("/home/me/runs/supernet/single/0000-s27000", "supernet/single/0000-s27000"),
    ],
)
def test_a_root_is_given_away_without_the_folders_of_a_machine(root: str, shown: str) -> None:
    assert without_folders(root) == shown


def test_files_of_one_name_stay_two_roots() -> None:
    one, other = (without_folders(f"/home/me/{folder}/best.pth") for folder in "ab")
    assert one != other
    assert one.startswith("best.pth (")


def test_no_committed_trial_names_a_folder_of_a_machine() -> None:
    for path in RESULTS.glob("*/trials.csv"):
        assert [root for root in pd.read_csv(path, dtype="string").get("root", []) if str(root).startswith("/")] == []


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/trials.csv")), ids=lambda path: path.parent.name)
def test_committed_results_come_out_of_their_trials(path: Path) -> None:
    committed = pd.read_csv(path.with_name("ablation.csv"), dtype=DATA_COLUMNS | ROOTS)
    over_pictures = [name for name in PICTURES if name in committed]  # of `matches.npz` of each trial, 7 MB a study
    pd.testing.assert_frame_equal(
        ablation_table(load_study(path)).data, committed.drop(columns=over_pictures), rtol=1e-9
    )
