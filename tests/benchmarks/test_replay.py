"""The replayed table: noise is what is left after arms and seeds, and a table that cannot tell it is refused."""

import csv
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import replay
from replay_page import render, synthetic


def shift_seeds(path: Path, by: float) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["val_top1"] = str(float(row["val_top1"]) + by * int(row["seed"]))
    write(path, rows)


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_what_a_seed_does_to_all_arms_is_no_noise(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    synthetic(path, seeds=4, noise=0.3)
    table = replay.Table.read(path)
    assert len(table.values) == 46
    assert table.noise() == pytest.approx(0.3, rel=0.2)
    shift_seeds(path, 5.0)
    shifted = replay.Table.read(path)
    assert shifted.noise() == pytest.approx(table.noise())
    assert shifted.good()[:2] == table.good()[:2]


def test_seeds_must_be_shared(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    synthetic(path, seeds=2, noise=0.3)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    write(path, rows[:-1])
    with pytest.raises(ValueError, match="not all are there of"):
        replay.Table.read(path)
    write(path, [row for row in rows if row["seed"] == "0"])
    with pytest.raises(ValueError, match="two seeds at least"):
        replay.Table.read(path)


@pytest.mark.slow
def test_a_search_without_noise_reports_the_best_arm_it_saw(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    synthetic(path, seeds=2, noise=0.0)
    table = replay.Table.read(path)
    values = table.means()
    for strategy in replay.strategies():
        outcome = replay.search(strategy, table, values, seed=3, most=60)
        if strategy.free_duplicates:
            assert outcome.trained <= 46
        assert outcome.reported


def test_the_committed_page_is_that_of_the_committed_figures() -> None:
    results = Path(__file__).resolve().parents[2] / "docs" / "results"
    found = json.loads((results / "replay.json").read_text())
    assert render(found) in (results / "replay.md").read_text()
