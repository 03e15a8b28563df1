"""Every trial on disk becomes one row, what cannot be read is said, not lost, and the cache changes nothing but time."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import search.report.reading.load as load
from search.ledger.result import read_result, write_result
from search.report.reading.load import COLUMNS, load_study

from ..conftest import Add, rewrite


def test_rows_are_sorted_and_typed(study: Path, add: Add) -> None:
    add("plain", 1000, test_top1=61.5, params=77_400)
    add(
        "stage3", 0, phase="search", status="failed", reason="out of memory", sites=["layer3.0.conv2", "layer3.1.conv2"]
    )
    add("plain", 0, phase="search", val_top1=60)
    frame = load_study(study)
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == COLUMNS
    assert list(zip(frame["phase"], frame["trial"], strict=True)) == [("search", 0), ("search", 1), ("final", 0)]
    assert frame["sites"].iloc[0] == "layer3.0.conv2; layer3.1.conv2"
    assert frame["sites"].isna().iloc[1]
    assert frame["val_top1"].iloc[1] == 60.0
    assert frame["run_dir"].tolist() == ["trials/0000-s0", "trials/0001-s0", "final/0000-s1000"]
    assert frame.attrs == {"path": str(study), "unreadable": []}


def test_dtypes_do_not_depend_on_the_values(study: Path, add: Add) -> None:
    add(None, 0, phase="single", status="failed", recipe_hash=None, provenance={})
    assert {name: str(dtype) for name, dtype in load_study(study).dtypes.items()} == COLUMNS


def test_scores_of_the_untrained_network_are_columns_of_their_own(study: Path, add: Add) -> None:
    add("plain", 0, zero_cost={"zen": 1.5, "snip": None}, fingerprint="0123456789", attempt=2)
    add("stage3", 0, zero_cost={"zen": 2}, reused_from="other/trials/0001-s0", train_memory_mb=1.25)
    add("stage4", 0, phase="search", status="infeasible", reason="params 9 is above 8")
    frame = load_study(study)
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == COLUMNS | {
        "zero_cost.snip": "Float64",
        "zero_cost.zen": "Float64",
    }
    assert frame["zero_cost.zen"].tolist()[1:] == [1.5, 2.0]
    assert frame["zero_cost.snip"].isna().all()
    assert frame["status"].tolist() == ["infeasible", "ok", "ok"]
    assert frame["attempt"].tolist() == [1, 2, 1]
    assert frame["train_memory_mb"].iloc[2] == 1.25


def test_a_started_folder_without_result_is_unfinished(study: Path, add: Add) -> None:
    add("plain", 0)
    for place in ("final/0007-s3", "trials/0002-0123456789-s5", "elsewhere/2026-11-22", "workers/0"):
        (study / place / ".hydra").mkdir(parents=True)
    (study / ".hydra").mkdir()
    (study / "trials" / "0003-s0").mkdir()
    lost = load_study(study).query("status == 'unfinished'")
    assert list(zip(lost["phase"], lost["run_dir"], strict=True)) == [
        ("search", "trials/0002-0123456789-s5"),
        ("final", "final/0007-s3"),
        ("single", "elsewhere/2026-11-22"),
    ]
    assert lost["seed"].tolist()[:2] == [5, 3]
    assert lost["trial"].tolist()[:2] == [2, 7]


BROKEN = {
    "truncated": lambda text: text[:40],
    "empty": lambda text: "",
    "a list": lambda text: "[1, 2]",
    "another schema": lambda text: json.dumps(json.loads(text) | {"schema": 99}),
    "no seed": lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "seed"}),
    "text for a number": lambda text: json.dumps(json.loads(text) | {"test_top1": "61.5 %"}),
    "a bool for a number": lambda text: json.dumps(json.loads(text) | {"params": True}),
    "a number too large": lambda text: json.dumps(json.loads(text) | {"macs": 2**70}),
    "unknown status": lambda text: json.dumps(json.loads(text) | {"status": "fine"}),
    "unknown phase": lambda text: json.dumps(json.loads(text) | {"phase": None}),
    "null trial": lambda text: json.dumps(json.loads(text) | {"trial": None}),
    "sites no list": lambda text: json.dumps(json.loads(text) | {"sites": 3}),
    "a score that is no number": lambda text: json.dumps(json.loads(text) | {"zero_cost": {"zen": "high"}}),
    "scores no object": lambda text: json.dumps(json.loads(text) | {"zero_cost": [1]}),
    "provenance no object": lambda text: json.dumps(json.loads(text) | {"provenance": [1]}),
}


@pytest.mark.parametrize("how", BROKEN)
def test_an_unreadable_result_stops_nothing_and_is_named(study: Path, add: Add, how: str) -> None:
    add("plain", 0)
    path = add("stage3", 0) / "result.json"
    path.write_text(BROKEN[how](path.read_text()))
    frame = load_study(study)
    assert frame["arm"].tolist() == ["plain"]
    assert len(frame.attrs["unreadable"]) == 1
    assert str(path) in frame.attrs["unreadable"][0]


def test_bytes_that_are_no_text_are_named(study: Path, add: Add) -> None:
    add("plain", 0)
    (add("stage3", 0) / "result.json").write_bytes(b"\xff\xfe\x00")
    assert len(load_study(study).attrs["unreadable"]) == 1


def test_a_missing_study_names_those_that_exist(study: Path, add: Add) -> None:
    add("plain", 0)
    with pytest.raises(
        ValueError, match=r"demos does not exist. Did you mean .*runs/demo\? Studies that exist: .*runs/demo"
    ):
        load_study(study.parent / "demos")


def test_a_bare_name_finds_the_study_in_runs(study: Path, add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    add("plain", 0)
    monkeypatch.chdir(study.parent.parent)
    with pytest.raises(ValueError, match=r"Did you mean runs/demo\?"):
        load_study("demo")


def test_an_empty_study_says_what_was_looked_for(study: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no trial: looked for \*\*/result.json.*No study was found in .*runs;"):
        load_study(study)


def test_a_file_is_not_a_study(study: Path, add: Add) -> None:
    with pytest.raises(ValueError, match=r"result\.json is no file of trials"):
        load_study(add("plain", 0) / "result.json")


def test_the_parent_of_several_studies_is_refused(study: Path, add: Add) -> None:
    path = add("plain", 0) / "result.json"
    other = study.parent / "other" / "final" / "0000-s0"
    shutil.copytree(path.parent, other)
    write_result(other, replace(read_result(path), study="other"))
    with pytest.raises(ValueError, match=r"holds 2 studies: demo \(as in .*other \(as in .*Give the folder of one"):
        load_study(study.parent)


def test_one_trial_can_be_read_by_itself(study: Path, add: Add) -> None:
    frame = load_study(add("plain", 3))
    assert len(frame) == 1
    assert isinstance(frame, pd.DataFrame)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old at once: what the two seconds guard against cannot happen in a test that waits for nothing."""
    monkeypatch.setattr(load, "SETTLE_NS", -(10**9))


@pytest.fixture
def filled(study: Path, add: Add, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(load, "CACHE_FROM", 1)  # small studies are kept too
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
    frame, truth = load_study(study), load_study(study, cache=False)
    pd.testing.assert_frame_equal(frame, truth)
    assert frame.attrs == truth.attrs
    return frame


@pytest.mark.usefixtures("settled")
def test_a_second_load_reads_no_result(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_study(filled)
    assert (filled / load.CACHE_FILE).exists()
    places = reads(monkeypatch)
    pd.testing.assert_frame_equal(load_study(filled), first)
    assert places == []


@pytest.mark.usefixtures("settled")
def test_changes_are_seen(filled: Path, add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    load_study(filled)
    path = filled / "final" / "0001-s0" / "result.json"
    places = reads(monkeypatch)
    before = os.stat(path)
    rewrite(path, test_top1=71.0)  # the same size, in place,
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # and with the old time stamp
    assert load_study(filled)["test_top1"].tolist()[2] == 71.0
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
    load_study(filled)
    places = reads(monkeypatch)
    load_study(filled)
    assert len(places) == 3


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_torn_cache_is_passed_over(filled: Path, keep: int) -> None:
    load_study(filled)
    file = filled / load.CACHE_FILE
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
    load_study(filled)
    monkeypatch.setattr(load, "made_by", lambda: "0" * 64)
    places = reads(monkeypatch)
    load_study(filled)
    assert len(places) == 3


@pytest.mark.usefixtures("settled")
def test_a_copied_study_is_not_taken_for_the_old_one(filled: Path, tmp_path: Path) -> None:
    load_study(filled)
    copy = tmp_path / "copy"
    shutil.copytree(filled, copy)
    path = copy / "final" / "0001-s0" / "result.json"
    rewrite(path, test_top1=1.0)
    assert same(copy)["test_top1"].tolist()[2] == 1.0


def test_a_folder_that_cannot_be_written_is_read_all_the_same(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(load.os, "replace", refuse)
    monkeypatch.setattr(load, "SETTLE_NS", -(10**9))
    assert len(load_study(filled)) == 4
    assert not [path for path in filled.iterdir() if path.name.startswith(load.CACHE_FILE)]


def test_small_studies_leave_no_file(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "CACHE_FROM", 500)
    load_study(filled)
    assert not (filled / load.CACHE_FILE).exists()
