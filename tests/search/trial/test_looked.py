"""The networks of the looks are read on test once, at the end, and trained by nobody twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from search.channel import Channel, opened
from search.ledger.result import TrialResult, read_result, write_result
from search.ledger.samples import read_samples
from search.trial import run as module
from search.trial.reuse import LostAtLook
from search.trial.run import run_trial

from .conftest import Small

OVERRIDES = ("placement.policy=stage3", "train.epochs=1", "checkpoint=never")


def run(small: Small, folder: Path, *overrides: str, **facts: Any) -> TrialResult:
    study = folder.parents[1]
    with opened(Channel(study="s", study_dir=str(study), **facts)):
        run_trial(small(*OVERRIDES, *overrides), folder)
    return read_result(folder / "result.json")


@pytest.fixture(scope="module")
def looked(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "s" / "trials" / "0000-s0"
    result = run(small, folder, phase="search", keeps_weights=True)
    assert not result.has_test_scores
    return folder


@pytest.fixture
def study(looked: Path, tmp_path: Path) -> Path:
    """A copy of a study that has one network, trained at a look."""
    return shutil.copytree(looked.parents[1], tmp_path / "runs" / "s")


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was trained")

    monkeypatch.setattr(module, "Trainer", fail)


@pytest.fixture(scope="module")
def trained_anew(small: Small, tmp_path_factory: pytest.TempPathFactory) -> TrialResult:
    return run(small, tmp_path_factory.mktemp("runs") / "other" / "final" / "0000-s0", phase="final")


@pytest.mark.usefixtures("untrained")
def test_the_test_score_is_that_of_the_network_that_was_looked_at(
    small: Small, study: Path, trained_anew: TrialResult
) -> None:
    source = study / "trials" / "0000-s0"
    assert (source / "checkpoint.pt").is_file()  # though checkpoint=never: until the test data are read
    result = run(small, study / "final" / "0000-s0", phase="final", trained_in=str(source))
    assert (result.metrics, result.epochs) == (trained_anew.metrics, 1)
    assert result.reused_from == "s/trials/0000-s0"
    assert result.fingerprint == trained_anew.fingerprint
    assert not list(study.rglob("checkpoint.pt"))  # read, and checkpoint=never


@pytest.mark.usefixtures("untrained")
def test_weights_stay_where_the_config_keeps_them(small: Small, study: Path) -> None:
    source, folder = study / "trials" / "0000-s0", study / "final" / "0000-s0"
    run(small, folder, "checkpoint=final", "data.probe_size=100", phase="final", trained_in=str(source))
    assert (folder / "checkpoint.pt").read_bytes() == (source / "checkpoint.pt").read_bytes()
    assert sorted(set(read_samples(folder).part)) == ["test", "val"]


@pytest.mark.parametrize("damage", ["gone", "torn", "another"])
def test_a_network_that_cannot_be_read_is_trained_again(
    small: Small, study: Path, trained_anew: TrialResult, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = study / "trials" / "0000-s0"
    if damage == "another":
        result = read_result(source / "result.json")
        result.code_digest = "0" * 10
        write_result(source, result)
    elif damage == "torn":
        (source / "checkpoint.pt").write_bytes(b"torn")
    else:
        (source / "checkpoint.pt").unlink()
    with caplog.at_level("WARNING", logger="xvol"):
        result = run(small, study / "final" / "0000-s0", phase="final", trained_in=str(source))
    assert "cannot be read on test" in caplog.text
    assert (result.metrics["test_top1"], result.reused_from) == (trained_anew.metrics["test_top1"], None)


@pytest.mark.usefixtures("untrained")
def test_a_cell_that_failed_at_the_looks_is_shown_as_failed(small: Small, study: Path) -> None:
    source, folder = study / "trials" / "0000-s0", study / "final" / "0000-s0"
    result = read_result(source / "result.json")
    result.status, result.reason = "failed", "diverged"
    write_result(source, result)
    with pytest.raises(LostAtLook):
        run(small, folder, phase="final", trained_in=str(source))
    written = read_result(folder / "result.json")
    assert (written.status, written.has_test_scores) == ("failed", False)
    assert written.reason is not None
    assert "not trained at the looks: failed (diverged)" in written.reason
