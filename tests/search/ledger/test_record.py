from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import pytest

from search.ledger.record import HISTORY_COLUMNS, HISTORY_FILE, Record, close_abandoned, now
from search.ledger.result import RESULT_FILE, TrialResult, read_result, write_result

ROW = {"epoch": 1, "train_loss": 2.345678912, "val_loss": 1.5, "val_top1": 50.0, "lr": 1e-7, "seconds": 0.25}


def unfinished() -> TrialResult:
    return TrialResult(study="demo", trial=3, phase="search", status="interrupted", seed=1)


def history(folder: Path) -> list[list[str]]:
    with (folder / HISTORY_FILE).open(newline="") as file:
        return list(csv.reader(file))


def test_the_history_is_whole_after_each_epoch(tmp_path: Path) -> None:
    record = Record(tmp_path / "new" / "folder", unfinished())
    assert history(record.folder) == [list(HISTORY_COLUMNS)]
    for epoch in (1, 2):
        record.epoch({**ROW, "epoch": epoch})
        assert history(record.folder)[epoch:] == [[str(epoch), "2.34568", "1.5", "50", "1e-07", "0.25"]]
        assert record.result.epochs == epoch
    assert not (record.folder / RESULT_FILE).exists()


def test_a_value_that_is_missing_or_no_number_is_written_as_such(tmp_path: Path) -> None:
    record = Record(tmp_path, unfinished())
    record.epoch({"epoch": 1, "train_loss": math.nan})
    assert history(tmp_path)[1] == ["1", "nan", "", "", "", ""]


def test_closing_writes_the_row_with_its_times_and_its_origin(tmp_path: Path) -> None:
    record = Record(tmp_path, unfinished())
    record.result.status = "ok"
    assert record.close() == tmp_path / RESULT_FILE
    written = read_result(tmp_path / RESULT_FILE)
    assert written.status == "ok"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", written.started_at or "")
    assert (written.started_at or "") <= (written.finished_at or "") <= now()
    assert {"commit", "versions", "python", "host"} <= written.provenance.keys()


def test_rows_do_not_share_their_provenance(tmp_path: Path) -> None:
    first, second = (Record(tmp_path / name, unfinished()) for name in "ab")
    first.result.provenance["commit"] = "changed"
    assert second.result.provenance["commit"] != "changed"


@pytest.mark.parametrize("seed", [0, 1000, -1])
def test_a_trial_whose_process_died_is_closed_as_interrupted(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "my-study" / "trials" / f"0007-s{seed}"
    Record(folder, unfinished()).epoch(ROW)
    close_abandoned(folder, "my-study", 7, "search")
    written = read_result(folder / RESULT_FILE)
    assert (written.study, written.trial, written.phase, written.seed) == ("my-study", 7, "search", seed)
    assert (written.status, written.reason) == ("interrupted", "its process died")
    assert written.run_dir == f"trials/0007-s{seed}"
    assert written.epochs == 1  # what its history holds
    assert len(history(folder)) == 2


def test_a_result_that_was_written_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "0007-s1"
    folder.mkdir()
    before = write_result(folder, TrialResult(study="s", trial=7, phase="search", status="ok", seed=1)).read_bytes()
    close_abandoned(folder, "s", 7, "search")
    assert (folder / RESULT_FILE).read_bytes() == before


def test_a_trial_that_left_no_folder_leaves_no_result(tmp_path: Path) -> None:
    close_abandoned(tmp_path / "0007-s1", "s", 7, "search")
    assert list(tmp_path.iterdir()) == []
