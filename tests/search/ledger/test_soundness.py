from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.ledger.paths import CHECKPOINT_FILE
from search.ledger.record import Record
from search.ledger.result import RESULT_FILE, TrialResult, write_result
from search.ledger.soundness import Asked, run_fault, weights_fault

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
