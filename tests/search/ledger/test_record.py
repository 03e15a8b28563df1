from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.ledger.record import (
    HISTORY_FILE,
    Asked,
    Record,
    close_abandoned,
    now,
    read_history,
    run_fault,
    supersede,
    weights_fault,
)
from search.ledger.result import RESULT_FILE, TrialResult, read_result, write_result
from search.ledger.study_files import CHECKPOINT_FILE

ROW = {"epoch": 1, "train_loss": 2.345678912, "val_loss": 1.5, "val_top1": 50.0, "lr": 1e-7, "seconds": 0.25}


def unfinished() -> TrialResult:
    return TrialResult(study="demo", trial=3, phase="search", status="interrupted", seed=1)


def history(folder: Path) -> list[list[str]]:
    with (folder / HISTORY_FILE).open(newline="") as file:
        return list(csv.reader(file))


def test_the_history_is_whole_after_each_epoch(tmp_path: Path) -> None:
    record = Record(tmp_path / "new" / "folder", unfinished())
    assert history(record.folder) == [["epoch", "train_loss", "val_loss", "val_top1", "lr", "seconds"]]
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


def test_a_torn_last_line_is_no_epoch(tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "0007-s1"
    record = Record(folder, unfinished())
    record.epoch(ROW)
    record.epoch({**ROW, "epoch": 2})
    whole = (folder / HISTORY_FILE).read_bytes()
    first = whole.index(b"\n1,") + 1
    second = whole.index(b"\n2,") + 1
    for length in range(len(whole)):
        (folder / HISTORY_FILE).write_bytes(whole[:length])
        assert len(read_history(folder)) == (1 if length >= second else 0), length
    assert first < second
    (folder / HISTORY_FILE).write_bytes(whole[:second] + b"2,2.3\xff\0\0")
    close_abandoned(folder, "s", 7, "search", attempt=2)
    written = read_result(folder / RESULT_FILE)
    assert (written.epochs, written.attempt) == (1, 2)


@pytest.mark.parametrize("tail", [b"3,1,1,1,1,1\n", b"2,1\n", b"\0\0\0\0\0\n", b"two,1,1,1,1,1\n"])
def test_a_foreign_line_ends_a_history(tmp_path: Path, tail: bytes) -> None:
    record = Record(tmp_path, unfinished())
    record.epoch(ROW)
    with (tmp_path / HISTORY_FILE).open("ab") as file:
        file.write(tail)
    (row,) = read_history(tmp_path)
    assert (row["epoch"], row["val_top1"]) == ("1", "50")


def test_where_there_is_no_history_there_are_no_epochs(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    (tmp_path / HISTORY_FILE).write_text("a,b\n1,2\n")
    assert read_history(tmp_path) == []


def test_a_failed_trial_that_is_run_again_is_an_interrupted_attempt(tmp_path: Path) -> None:
    failed = TrialResult(study="s", trial=7, phase="search", status="failed", reason="no luck", seed=1)
    write_result(tmp_path, failed)
    for _ in range(2):
        supersede(tmp_path)
        written = read_result(tmp_path / RESULT_FILE)
        assert (written.status, written.reason) == ("interrupted", "run again; it had failed: no luck")
    (tmp_path / RESULT_FILE).write_text("{")
    supersede(tmp_path)
    assert (tmp_path / RESULT_FILE).read_text() == "{"
    supersede(tmp_path / "nowhere")


ASKED = Asked("demo", "final", 3, "0123456789")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    result = TrialResult(study="demo", trial=3, phase="final", status="ok", seed=1, fingerprint="0123456789")
    record = Record(tmp_path, result)
    for epoch in (1, 2):
        record.epoch({"epoch": epoch, "val_top1": 50.0})
    record.close()
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("seed: 1\ncheckpoint: final\n")
    torch.save({"weight": torch.arange(512.0)}, tmp_path / CHECKPOINT_FILE)
    return tmp_path


def test_a_sound_run(folder: Path) -> None:
    assert run_fault(folder, ASKED) is None
    assert weights_fault(folder) is None


@given(cut=st.floats(0, 1, exclude_max=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@pytest.mark.parametrize("name", [RESULT_FILE, "history.csv", CHECKPOINT_FILE])
def test_each_cut_is_seen(folder: Path, name: str, cut: float) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(len(whole.rstrip()) * cut)])
    try:
        assert (weights_fault(folder) if name == CHECKPOINT_FILE else run_fault(folder, ASKED)) is not None
    finally:
        (folder / name).write_bytes(whole)


@given(place=st.integers(0, 2047))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_a_flipped_byte_of_a_weight_is_seen(folder: Path, place: int) -> None:
    path = folder / CHECKPOINT_FILE
    whole = path.read_bytes()
    at = whole.index(torch.arange(512.0).numpy().tobytes()) + place
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    try:
        assert weights_fault(folder) == "its weights are truncated or damaged"
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(("kept", "phase", "fault"), [
    ("final", "final", "its weights are gone"), ("never", "final", None), ("final", "search", None),
    ("always", "search", "its weights are gone"),
])  # fmt: skip
def test_weights_are_missed_only_where_they_were_to_be_kept(folder: Path, kept: str, phase: str, fault: str) -> None:
    (folder / CHECKPOINT_FILE).unlink()
    (folder / ".hydra" / "config.yaml").write_text(f"checkpoint: {kept}\n")
    write_result(folder, TrialResult(study="demo", trial=3, phase=phase, status="ok", seed=1))  # type: ignore[arg-type]
    assert weights_fault(folder) == fault
