"""The cache saves time and changes nothing: what is loaded through it is what the files say."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

import search.report.reading.cache as cache
import search.report.reading.load as load
from search.ledger.result import read_result, write_result

from ..conftest import Add, rewrite


@pytest.fixture(autouse=True)
def small_studies_are_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "CACHE_FROM", 1)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old at once: what the two seconds guard against cannot happen in a test that waits for nothing."""
    monkeypatch.setattr(cache, "SETTLE_NS", -(10**9))


@pytest.fixture
def filled(study: Path, add: Add) -> Path:
    add("plain", 0, test_top1=60.0, zero_cost={"zen": 1.5})
    add("stage3", 0, test_top1=61.0, sites=["a", "b"], overrides=["x=1"])
    add("stage3", 1, status="failed", reason="boom", phase="search", provenance={})
    (study / "final" / "0007-s3" / ".hydra").mkdir(parents=True)
    return study


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Places of the results that are read from now on."""
    places: list[str] = []

    def counting(root: str, place: str, provenances: dict[str, str]) -> dict[str, object]:
        places.append(place)
        return original(root, place, provenances)

    original = load.result_row
    monkeypatch.setattr(load, "result_row", counting)
    return places


def same(study: Path) -> pd.DataFrame:
    """Load through the cache, and check that it is what a load without one gives."""
    frame, truth = load.load_study(study), load.load_study(study, cache=False)
    pd.testing.assert_frame_equal(frame, truth)
    assert frame.attrs == truth.attrs
    return frame


@pytest.mark.usefixtures("settled")
def test_a_second_load_reads_no_result(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load.load_study(filled)
    assert (filled / cache.CACHE_FILE).exists()
    places = reads(monkeypatch)
    pd.testing.assert_frame_equal(load.load_study(filled), first)
    assert places == []


@pytest.mark.usefixtures("settled")
def test_changes_are_seen(filled: Path, add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    load.load_study(filled)
    path = filled / "final" / "0001-s0" / "result.json"
    places = reads(monkeypatch)
    before = os.stat(path)
    rewrite(path, test_top1=71.0)  # the same size, in place,
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # and with the old time stamp
    assert load.load_study(filled)["test_top1"].tolist()[2] == 71.0
    assert places == ["final/0001-s0"]
    result = read_result(path)
    result.metrics["test_top1"] = 72.0
    write_result(path.parent, result)  # replaced by rename
    assert same(filled)["test_top1"].tolist()[2] == 72.0
    add("stage4", 0, test_top1=63.0, zero_cost={"snip": 2.0})  # a new trial, and a new column
    assert same(filled)["zero_cost.snip"].notna().sum() == 1
    add("stage4", 1, test_top1=63.0)
    shutil.rmtree(path.parent)  # one gone
    assert len(same(filled)) == 5
    write_result(filled / "final" / "0007-s3", result)  # one that was unfinished
    assert "unfinished" not in same(filled)["status"].tolist()
    path = filled / "final" / "0000-s0" / "result.json"
    path.write_text("{")
    assert len(same(filled).attrs["unreadable"]) == 1
    path.unlink()
    assert same(filled).attrs["unreadable"] == []


def test_what_is_young_is_read_again(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load.load_study(filled)
    places = reads(monkeypatch)
    load.load_study(filled)
    assert len(places) == 3


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_torn_cache_is_passed_over(filled: Path, keep: int) -> None:
    load.load_study(filled)
    file = filled / cache.CACHE_FILE
    whole = file.read_bytes()
    file.write_bytes(whole[:keep])
    same(filled)
    assert file.read_bytes()[:16] == whole[:16]
    flipped = bytearray(file.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    file.write_bytes(flipped)
    same(filled)


@pytest.mark.usefixtures("settled")
def test_rows_of_other_code_are_not_used(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load.load_study(filled)
    monkeypatch.setattr(cache, "made_by", lambda: "0" * 64)
    places = reads(monkeypatch)
    load.load_study(filled)
    assert len(places) == 3


@pytest.mark.usefixtures("settled")
def test_a_copied_study_is_not_taken_for_the_old_one(filled: Path, tmp_path: Path) -> None:
    load.load_study(filled)
    copy = tmp_path / "copy"
    shutil.copytree(filled, copy)
    path = copy / "final" / "0001-s0" / "result.json"
    rewrite(path, test_top1=1.0)
    assert same(copy)["test_top1"].tolist()[2] == 1.0


def test_a_folder_that_cannot_be_written_is_read_all_the_same(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache.os, "replace", refuse)
    monkeypatch.setattr(cache, "SETTLE_NS", -(10**9))
    assert len(load.load_study(filled)) == 4
    assert not [path for path in filled.iterdir() if path.name.startswith(cache.CACHE_FILE)]


def test_small_studies_leave_no_file(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "CACHE_FROM", cache.CACHE_FROM)
    load.load_study(filled)
    assert not (filled / cache.CACHE_FILE).exists()
