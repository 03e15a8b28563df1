from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.ledger.files import NewerVersion
from search.ledger.result import RESULT_FILE, TrialResult, checksum_of, read_result, write_result

NUMBER = st.floats(allow_nan=False, allow_infinity=False)
BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    "str": st.text(),
    "int": st.integers(),
    "bool": st.booleans(),
    "float": NUMBER,
    "dict[str, float | None]": st.dictionaries(st.text(), st.none() | NUMBER, max_size=3),
    "list[str]": st.lists(st.text(), max_size=3),
    "dict[str, Any]": st.dictionaries(st.text(), st.none() | NUMBER | st.text() | st.lists(st.integers()), max_size=3),
}


def _strategy(hint: Any) -> st.SearchStrategy[Any]:
    choices = getattr(hint, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):  # Literal
        return st.sampled_from(choices)
    if type(None) in choices:
        return st.none() | BY_TYPE[choices[0].__name__]
    return BY_TYPE[getattr(hint, "__name__", str(hint)) if not choices else str(hint).replace("typing.", "")]


RESULTS = st.builds(TrialResult, **{name: _strategy(hint) for name, hint in get_type_hints(TrialResult).items()})
SMALL = TrialResult(study="demo", trial=3, phase="search", status="ok", seed=1, metrics={"val_top1": 91.25})


@given(RESULTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
def test_what_is_written_is_read(tmp_path: Path, result: TrialResult) -> None:
    assert read_result(write_result(tmp_path, result)) == result
    assert [path.name for path in tmp_path.iterdir()] == [RESULT_FILE]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_becomes_null(tmp_path: Path, value: float) -> None:
    given = replace(
        SMALL, metrics={"val_loss": value, "val_top1": 91.25}, fuse_error=value, zero_cost={"zen": value, "snip": 2.5}
    )
    path = write_result(tmp_path, given)
    assert read_result(path).zero_cost == {"zen": None, "snip": 2.5}
    assert set(given.zero_cost) == {"zen", "snip"}
    assert given.zero_cost["zen"] is not None  # what was handed in is not changed
    assert json.loads(path.read_text(encoding="ascii"))["metrics"]["val_loss"] is None
    assert (read_result(path).metrics["val_loss"], read_result(path).fuse_error) == (None, None)
    assert read_result(path).metrics.get("val_top1") == 91.25


def test_a_column_of_a_later_version_is_left_out_and_a_missing_one_has_its_default(tmp_path: Path) -> None:
    path = write_result(tmp_path, SMALL)
    row = json.loads(path.read_text())
    del row["macs"]
    later = {**row, "energy_j": 3.5}
    path.write_text(json.dumps(later | {"checksum": checksum_of(later)}))
    assert read_result(path) == SMALL


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[1, 2]",
        b'"a text"',
        b"{}",
        b'{"schema": 99, "study": "demo"}',
        b'{"schema": 1, "study": "demo"}',
        b'{"schema": 2, "study": "demo"}',
        b'{"schema": 0, "study": "demo"}',
        b"\xff\xfe\x00",
        b"<html>",
    ],
)
def test_what_is_no_result_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / RESULT_FILE
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"result\.json: ") as caught:
        read_result(path)
    assert str(path) in str(caught.value)


def test_each_truncation_is_refused(tmp_path: Path) -> None:
    path = write_result(tmp_path, SMALL)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 37):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"result\.json"):
            read_result(path)


def test_a_file_that_is_not_there_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing_here"):
        read_result(tmp_path / "nothing_here")
    with pytest.raises(ValueError, match=str(tmp_path)):
        read_result(tmp_path)


def test_a_result_of_the_first_release_is_read(tmp_path: Path) -> None:
    path = write_result(tmp_path, SMALL)
    row = json.loads(path.read_text())
    row |= {"schema": 1} | row.pop("metrics")
    for column in ("fingerprint", "reused_from", "attempt", "resumed_from", "train_memory_mb", "zero_cost", "checksum"):
        del row[column]
    path.write_text(json.dumps(row))
    assert read_result(path) == SMALL
    assert (SMALL.attempt, SMALL.zero_cost, SMALL.fingerprint) == (1, {}, None)


def test_every_column_is_documented() -> None:
    documented = (TrialResult.__doc__ or "").partition("Attributes:")[2]
    undocumented = {column.name for column in fields(TrialResult) if column.name not in documented}
    assert undocumented <= {"backbone", "started_at", "finished_at", "overrides", "provenance"}  # their names say it
    assert json.dumps(asdict(SMALL))


@given(RESULTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
def test_any_edited_value_is_seen(tmp_path: Path, result: TrialResult) -> None:
    row = json.loads(write_result(tmp_path, result).read_text())
    for name in row.keys() - {"schema", "checksum"}:
        edited = row | {name: [row[name], "edited"]}
        (tmp_path / RESULT_FILE).write_text(json.dumps(edited))
        with pytest.raises(ValueError, match="checksum does not fit"):
            read_result(tmp_path / RESULT_FILE)


def test_a_result_laid_out_anew_keeps_its_checksum(tmp_path: Path) -> None:
    path = write_result(tmp_path, SMALL)
    row = json.loads(path.read_text())
    path.write_text(json.dumps(row, sort_keys=True, indent=4))
    assert read_result(path) == SMALL
    assert row["checksum"] == checksum_of(row)


def test_a_later_schema_is_told_from_damage(tmp_path: Path) -> None:
    path = tmp_path / RESULT_FILE
    path.write_text('{"schema": 7}')
    with pytest.raises(
        NewerVersion, match=r"newer version of xvol \(schema 7; this version reads schema 2\); update xvol"
    ):
        read_result(path)


def test_a_column_has_its_value_by_name() -> None:
    result = replace(SMALL, params=12, zero_cost={"zen": 1.5})
    names = ("val_top1", "params", "zero_cost.zen", "zero_cost.snip", "val_loss", "val_images")
    assert [result.value(name) for name in names] == [91.25, 12, 1.5, None, None, None]
    assert not result.has_test_scores
    assert replace(SMALL, metrics={"test_loss": 0.5}).has_test_scores


def test_a_result_of_schema_1_is_lifted(tmp_path: Path) -> None:
    path = write_result(tmp_path, SMALL)
    row = json.loads(path.read_text())
    del row["metrics"], row["checksum"]
    old = row | {
        "schema": 1,
        "val_top1": 91.25,
        "val_loss": None,
        "test_top1": None,
        "test_loss": None,
        "chance_top1": 10.0,
    }
    path.write_text(json.dumps(old | {"checksum": checksum_of(old)}))
    assert read_result(path).metrics == {"val_top1": 91.25, "chance_top1": 10.0}
    path.write_text(json.dumps(old | {"checksum": checksum_of(old), "val_top1": 92.0}))
    with pytest.raises(ValueError, match="checksum does not fit"):
        read_result(path)
