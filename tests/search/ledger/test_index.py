from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.ledger import index as module
from search.ledger.index import INDEX_FILE, Index
from search.ledger.result import RESULT_FILE, TrialResult, write_result


def add(runs: Path, place: str, fingerprint: str | None, **values: Any) -> Path:
    """A run as one that no index knows: of an older version, or copied by hand."""
    folder = runs / place
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"study": "demo", "trial": 0, "phase": "search", "status": "ok", "seed": 0}
    return write_result(folder, TrialResult(**facts | {"fingerprint": fingerprint} | values))


def train(index: Index, place: str, fingerprint: str, lock: str = "w.lock", **values: Any) -> Path:
    """A run as a worker of this version trains it."""
    with index.locked():
        index.begin(fingerprint, place, "host", lock)
    return add(Path(index.result_file(index.runs(fingerprint)[0])).parents[3], place, fingerprint, **values)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The results that were opened."""
    opened: list[Path] = []
    original = module.sound_result

    def watched(path: Path) -> TrialResult | None:
        opened.append(path)
        return original(path)

    monkeypatch.setattr(module, "sound_result", watched)
    return opened


def test_a_result_is_found_in_any_study_by_its_fingerprint(tmp_path: Path) -> None:
    one = add(tmp_path, "one/trials/0003-s0", "aaa")
    other = add(tmp_path, "other/final/0000-s1000", "bbb", phase="final", metrics={"test_top1": 50.0})
    alone = add(tmp_path, "single/2026-11-22_10-00-00", "ccc", phase="single")
    index = Index(tmp_path)
    assert [index.find(name, needs_test=False) for name in ("aaa", "bbb", "ccc", "ddd")] == [one, other, alone, None]
    assert all(path.is_absolute() for path in (one, other, alone))
    assert index.find("aaa", needs_test=False, below="other") is None
    assert index.find("aaa", needs_test=False, unfit={str(one)}) is None


def test_a_result_without_test_scores_never_stands_for_a_final_trial(tmp_path: Path) -> None:
    add(tmp_path, "one/trials/0000-s0", "aaa")
    assert Index(tmp_path).find("aaa", needs_test=True) is None
    final = add(tmp_path, "two/final/0000-s0", "aaa", phase="final", metrics={"test_top1": 50.0})
    assert Index(tmp_path).find("aaa", needs_test=True) == final


@pytest.mark.parametrize("status", ["failed", "pruned", "interrupted", "infeasible", "duplicate"])
def test_only_trials_that_came_to_their_end_are_found(tmp_path: Path, status: str) -> None:
    add(tmp_path, "one/trials/0000-s0", "aaa", status=status)
    add(tmp_path, "one/trials/0001-s0", None)
    assert Index(tmp_path).find("aaa", needs_test=False) is None


def test_a_copy_stands_only_where_what_was_trained_is_gone(tmp_path: Path) -> None:
    copy = add(tmp_path, "a/trials/0000-s0", "aaa", reused_from="b/trials/0000-s0")
    source = add(tmp_path, "b/trials/0000-s0", "aaa")
    index = Index(tmp_path)
    assert index.find("aaa", needs_test=False) == source
    shutil.rmtree(tmp_path / "b")
    assert index.find("aaa", needs_test=False) == copy


def test_a_torn_or_foreign_result_is_passed_over(tmp_path: Path) -> None:
    whole = add(tmp_path, "one/trials/0000-s0", "aaa").read_bytes()
    contents = (whole[:50], b"", b"[1]", b"\xff\xfe", b'{"schema": 99}', b'{"schema": 1, "fingerprint": ["aaa"]}')
    for number, content in enumerate(contents, start=1):
        (tmp_path / f"one/trials/000{number}-s0").mkdir()
        (tmp_path / f"one/trials/000{number}-s0" / RESULT_FILE).write_bytes(content)
    (tmp_path / "one/trials/0009-s0" / RESULT_FILE).mkdir(parents=True)
    (tmp_path / "a file").touch()
    assert Index(tmp_path).find("aaa", needs_test=False) == tmp_path / "one/trials/0000-s0" / RESULT_FILE


def test_a_question_reads_the_results_that_it_is_about_and_lists_nothing(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        add(tmp_path, f"one/trials/{number:04d}-s0", f"old{number}")
    os.utime(tmp_path, (time.time() - 60,) * 2)
    first, second = Index(tmp_path), Index(tmp_path)
    first.find("new", needs_test=False)
    os.utime(tmp_path, (time.time() - 60,) * 2)
    second.find("new", needs_test=False)
    first.find("new", needs_test=False)
    assert len(reads) == 3 + 2 * 2  # each looks once for a result in the study's folder and in the phase's
    del reads[:]
    monkeypatch.setattr(module, "_folders", lambda folder: pytest.fail(f"{folder} was listed"))
    new = train(first, "one/trials/0003-s0", "new")
    assert second.find("new", needs_test=False) == new
    assert second.find("none", needs_test=False) is None
    assert reads == [new]


def test_a_study_that_is_copied_in_is_found_by_who_is_running(tmp_path: Path) -> None:
    index = Index(tmp_path)
    assert index.find("aaa", needs_test=False) is None
    later = add(tmp_path, "two/trials/0000-s0", "aaa")
    assert index.find("aaa", needs_test=False) == later


def test_a_result_that_was_deleted_is_not_offered(tmp_path: Path) -> None:
    first, second = (add(tmp_path, f"one/trials/000{number}-s0", "aaa") for number in range(2))
    index = Index(tmp_path)
    assert index.find("aaa", needs_test=False) == first
    first.unlink()
    assert index.find("aaa", needs_test=False) == second
    second.unlink()
    assert index.find("aaa", needs_test=False) is None


def test_a_folder_of_runs_that_is_not_there_yet(tmp_path: Path) -> None:
    reader, index = Index(tmp_path / "runs", writes=False), Index(tmp_path / "runs")
    assert reader.find("aaa", needs_test=False) is None
    assert not (tmp_path / "runs").exists()
    path = train(index, "one/trials/0000-s0", "aaa")
    assert index.find("aaa", needs_test=False) == reader.find("aaa", needs_test=False) == path


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    path = add(tmp_path, "one/trials/0000-s0", "aaa")
    assert Index(tmp_path, writes=False).find("aaa", needs_test=False) == path
    assert not (tmp_path / INDEX_FILE).exists()


DAMAGE: dict[str, Any] = {
    "gone": lambda data: None,
    "empty": lambda data: b"",
    "torn": lambda data: data[: len(data) * 2 // 3],
    "a line torn by a kill": lambda data: data + data[:30],
    "a letter changed": lambda data: data.replace(b"trials/0001", b"trials/0007"),
    "a fingerprint changed": lambda data: data.replace(b"run1", b"run9"),
    "zeros of a power failure": lambda data: data[:50] + bytes(len(data) - 50),
    "foreign": lambda data: b'\xff{"a": 1}\n\n[1, 2]\n',
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("while_running", [False, True])
def test_whatever_becomes_of_the_file_nothing_is_lost(tmp_path: Path, damage: str, while_running: bool) -> None:
    index = Index(tmp_path)
    there = [train(index, f"one/trials/{n:04d}-s0", f"run{n}") for n in range(4)]
    file = tmp_path / INDEX_FILE
    data = DAMAGE[damage](file.read_bytes())
    file.unlink()
    if data is not None:
        file.write_bytes(data)
    later = index if while_running else Index(tmp_path)
    assert [later.find(f"run{n}", needs_test=False) for n in range(4)] == there
    new = train(later, "two/trials/0000-s0", "new")
    assert Index(tmp_path).find("new", needs_test=False) == new
    assert [Index(tmp_path).find(f"run{n}", needs_test=False) for n in range(4)] == there


def test_a_file_that_took_the_place_of_a_deleted_one_is_read_anew(tmp_path: Path) -> None:
    """A disk may give it the inode of the deleted one, and by the next question it may be as long."""
    index = Index(tmp_path)
    train(index, "one/trials/0000-s0", "aaa")
    os.truncate(tmp_path / INDEX_FILE, 0)  # keeps the inode
    other = Index(tmp_path)
    for number in range(3):
        with other.locked():
            other.begin("bbb", f"two/trials/{number:04d}-s0", "host", "x.lock")
    assert len(index.runs("bbb")) == 3


@given(cut=st.integers(0, 400), fill=st.binary(max_size=40))
@settings(max_examples=30, deadline=None)
def test_a_file_cut_anywhere_and_filled_with_anything(
    tmp_path_factory: pytest.TempPathFactory, cut: int, fill: bytes
) -> None:
    runs = tmp_path_factory.mktemp("runs")
    index = Index(runs)
    there = [train(index, f"one/trials/{n:04d}-s0", f"run{n}") for n in range(3)]
    file = runs / INDEX_FILE
    file.write_bytes(file.read_bytes()[:cut] + fill)
    assert [Index(runs).find(f"run{n}", needs_test=False) for n in range(3)] == there
    shutil.rmtree(runs)


def _begin_many(runs: Path, name: str) -> None:
    index = Index(runs)
    for number in range(200):
        with index.locked():
            if not index.runs(f"shared{number}"):
                index.begin(f"shared{number}", f"{name}/trials/{number:04d}-s0", "host", f"{name}.lock")


def test_processes_that_write_at_once_tear_no_line_and_begin_each_run_once(tmp_path: Path) -> None:
    processes = [multiprocessing.Process(target=_begin_many, args=(tmp_path, name)) for name in ("a", "b", "c")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    lines = (tmp_path / INDEX_FILE).read_bytes().splitlines()
    assert len(lines) == 1 + 200  # the first tells the file from others
    index = Index(tmp_path)
    assert [len(index.runs(f"shared{number}")) for number in range(200)] == [1] * 200


def test_the_run_that_a_worker_began_last_is_its_latest(tmp_path: Path) -> None:
    index, other = Index(tmp_path), Index(tmp_path)
    for place, fingerprint in (("a/trials/0000-s0", "one"), ("a/trials/0001-s0", "two")):
        with index.locked():
            index.begin(fingerprint, place, "host", "w.lock")
    assert [other.is_latest(other.runs(name)[0]) for name in ("one", "two")] == [False, True]
    with index.locked():
        index.end("host", "w.lock")
    assert not other.is_latest(other.runs("two")[0])


def test_the_latest_run_of_the_same_settings_that_other_content_made(tmp_path: Path) -> None:
    index = Index(tmp_path)
    first = train(index, "one/trials/0000-s0", "aaa-1")
    second = train(index, "two/trials/0000-s0", "aaa-2")
    train(index, "two/trials/0001-s0", "aaa-3", status="failed")
    train(index, "two/trials/0002-s0", "bbb-1")
    assert index.find("aaa-4", needs_test=False) is None
    assert index.find_outdated("aaa-4", needs_test=False) == second
    assert index.find_outdated("aaa-2", needs_test=False) == first
    assert index.find_outdated("aaa-4", needs_test=False, below="one") == first
    assert index.find_outdated("aaa-4", needs_test=True) is None
    assert index.find_outdated("bbb-1", needs_test=False) is None
    assert Index(tmp_path).find_outdated("aaa-4", needs_test=False) == second
