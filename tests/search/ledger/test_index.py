from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from search.ledger import index as module
from search.ledger.index import Index
from search.ledger.result import RESULT_FILE, TrialResult, write_result


def add(runs: Path, place: str, fingerprint: str | None, **values: Any) -> Path:
    folder = runs / place
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"study": "demo", "trial": 0, "phase": "search", "status": "ok", "seed": 0}
    return write_result(folder, TrialResult(**facts | {"fingerprint": fingerprint} | values))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The results that were opened."""
    opened: list[Path] = []
    original = module.read_result

    def watched(path: Path) -> TrialResult:
        opened.append(path)
        return original(path)

    monkeypatch.setattr(module, "read_result", watched)
    return opened


def aged(runs: Path) -> None:
    """As if the folders had been written a minute ago: their time stamps tell of any later change."""
    for folder in [runs, *(path for path in runs.rglob("*") if path.is_dir())]:
        os.utime(folder, (time.time() - 60,) * 2)


def test_a_result_is_found_in_any_study_by_its_fingerprint(tmp_path: Path) -> None:
    one = add(tmp_path, "one/trials/0003-s0", "aaa")
    other = add(tmp_path, "other/final/0000-s1000", "bbb", phase="final", test_top1=50.0)
    alone = add(tmp_path, "single/2026-11-22_10-00-00", "ccc", phase="single")
    index = Index(tmp_path)
    assert [index.find(name, needs_test=False) for name in ("aaa", "bbb", "ccc", "ddd")] == [one, other, alone, None]
    assert all(path.is_absolute() for path in (one, other, alone))


def test_a_result_without_test_scores_never_stands_for_a_final_trial(tmp_path: Path) -> None:
    add(tmp_path, "one/trials/0000-s0", "aaa")
    index = Index(tmp_path)
    assert index.find("aaa", needs_test=True) is None
    final = add(tmp_path, "two/final/0000-s0", "aaa", phase="final", test_top1=50.0)
    assert index.find("aaa", needs_test=True) == final


@pytest.mark.parametrize(
    "values",
    [{"status": "failed"}, {"status": "pruned"}, {"status": "interrupted"}, {"reused_from": "one/trials/0000-s0"}],
)
def test_only_trials_that_were_trained_to_the_end_are_found(tmp_path: Path, values: dict[str, Any]) -> None:
    add(tmp_path, "one/trials/0000-s0", "aaa", **values)
    add(tmp_path, "one/trials/0001-s0", None)
    assert Index(tmp_path).find("aaa", needs_test=False) is None


def test_a_torn_or_foreign_file_is_passed_over(tmp_path: Path) -> None:
    whole = add(tmp_path, "one/trials/0000-s0", "aaa").read_bytes()
    contents = (whole[:50], b"", b"[1]", b"\xff\xfe", b'{"schema": 99}', b'{"schema": 1, "fingerprint": ["aaa"]}')
    for number, content in enumerate(contents, start=1):
        (tmp_path / f"one/trials/000{number}-s0").mkdir()
        (tmp_path / f"one/trials/000{number}-s0" / RESULT_FILE).write_bytes(content)
    (tmp_path / "one/trials/0009-s0" / RESULT_FILE).mkdir(parents=True)
    (tmp_path / "a file").touch()
    assert Index(tmp_path).find("aaa", needs_test=False) == tmp_path / "one/trials/0000-s0" / RESULT_FILE


def test_a_second_call_reads_only_what_is_new(tmp_path: Path, reads: list[Path]) -> None:
    for number in range(3):
        add(tmp_path, f"one/trials/{number:04d}-s0", f"old{number}")
    aged(tmp_path)
    index = Index(tmp_path)
    index.find("new", needs_test=False)
    assert len(reads) == 3
    index.find("new", needs_test=False)
    assert len(reads) == 3
    new = add(tmp_path, "one/trials/0003-s0", "new")
    assert index.find("new", needs_test=False) == new
    assert reads[3:] == [new]
    later = add(tmp_path, "two/trials/0000-s0", "later")
    assert index.find("later", needs_test=False) == later


def test_a_trial_that_ends_later_is_found_then(tmp_path: Path, reads: list[Path]) -> None:
    folder = tmp_path / "one/trials/0000-s0"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / RESULT_FILE).write_text("{}")  # not looked at
    add(tmp_path, "one/trials/0001-s0", "bbb", status="interrupted")
    aged(tmp_path)
    index = Index(tmp_path)
    assert index.find("aaa", needs_test=False) is None
    assert index.find("bbb", needs_test=False) is None
    found = [add(tmp_path, "one/trials/0000-s0", "aaa"), add(tmp_path, "one/trials/0001-s0", "bbb")]
    assert [index.find(name, needs_test=False) for name in ("aaa", "bbb")] == found
    assert folder / ".hydra" / RESULT_FILE not in reads


def test_a_change_within_one_tick_of_the_clock_is_not_missed(tmp_path: Path) -> None:
    """The folder's time stamp is the same before and after; it was too young to be trusted."""
    add(tmp_path, "one/trials/0000-s0", "aaa")
    trials = tmp_path / "one/trials"
    index = Index(tmp_path)
    stamp = trials.stat().st_mtime_ns
    assert index.find("bbb", needs_test=False) is None
    new = add(tmp_path, "one/trials/0001-s0", "bbb")
    os.utime(trials, ns=(stamp, stamp))
    assert index.find("bbb", needs_test=False) == new


def test_a_result_that_was_deleted_is_not_offered(tmp_path: Path) -> None:
    first, second = (add(tmp_path, f"one/trials/000{number}-s0", "aaa") for number in range(2))
    index = Index(tmp_path)
    assert index.find("aaa", needs_test=False) == first
    first.unlink()
    assert index.find("aaa", needs_test=False) == second
    second.unlink()
    assert index.find("aaa", needs_test=False) is None


def test_a_folder_of_runs_that_is_not_there_yet(tmp_path: Path) -> None:
    index = Index(tmp_path / "runs")
    assert index.find("aaa", needs_test=False) is None
    path = add(tmp_path / "runs", "one/trials/0000-s0", "aaa")
    assert index.find("aaa", needs_test=False) == path
