"""A study and a stopped study as commit f6bed87 wrote them (schema 1): every later version reads them.

`schema1.tar.xz` holds `schema1`, a search over placements and learning rates on the digits with its re-evaluation (one
worker was killed on the way), and `schema1_stopped`, one trial that Ctrl-C stopped. Nobody writes it anew.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch

from search.cli.check import main as check
from search.cli.table import main
from search.ledger.record import read_history
from search.ledger.result import read_result
from search.study.storage.opening import open_storage
from search.trial.state import StateRefused, load_checkpoint, read_state

PACKED = Path(__file__).with_name("schema1.tar.xz")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    with tarfile.open(PACKED) as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path


def test_every_result_and_every_history_is_read(runs: Path) -> None:
    files = sorted(runs.glob("schema1/*/*/result.json"))
    results = [read_result(file) for file in files]
    assert Counter(result.status for result in results) == {
        "ok": 20,
        "pruned": 10,
        "failed": 5,
        "duplicate": 4,
        "interrupted": 1,
    }
    assert sum(result.reused_from is not None for result in results) == 5
    for file, result in zip(files, results, strict=True):
        assert len(read_history(file.parent)) == result.epochs


@pytest.mark.slow
def test_its_table_shows_the_same_means(runs: Path) -> None:
    table = runs / "schema1" / "tables" / "ablation.csv"
    before = pd.read_csv(table)
    table.unlink()
    assert main([str(runs / "schema1")]) == 0
    after = pd.read_csv(table)
    for column in ("arm", "n", "mean", "sd", "diff", "p_value", "params"):
        pd.testing.assert_series_equal(before[column], after[column])


@pytest.mark.slow
def test_it_is_found_sound_but_for_its_checksums(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check([str(runs / "schema1")]) == 0
    assert "9 result(s) without a checksum" in capsys.readouterr().out


def test_its_storage_is_read(runs: Path) -> None:
    storage = open_storage(None, runs / "schema1")
    states = Counter(trial.state.name for trial in optuna.load_study(study_name="schema1", storage=storage).trials)
    assert states["COMPLETE"] == 11
    assert len(optuna.load_study(study_name="schema1.final", storage=storage).trials) == 9


def test_its_weights_are_read(runs: Path) -> None:
    weights = sorted(runs.glob("schema1/final/*/checkpoint.pt"))
    assert len(weights) == 9
    assert all(load_checkpoint(path) for path in weights)


def test_its_saved_state_is_read_or_refused_in_words(runs: Path) -> None:
    folder = runs / "schema1_stopped" / "trials" / "0000-s0"
    fingerprint = read_result(folder / "result.json").fingerprint
    assert fingerprint is not None
    said = ""
    try:
        assert len(read_state(folder, fingerprint, {}, torch.device("cpu"))["history"]) == 2
    except StateRefused as reason:
        said = str(reason)
    assert not said or "here it is" in said, "another version of torch, for one, is refused, and says so"
