"""What travels to workers."""

import pickle
from pathlib import Path

import pytest

from search.space.parameters import Space
from search.study.queue import Budget
from search.study.spec import StudySpec, open_queue, resolved


def spec(folder: Path, storage: str | None = None) -> StudySpec:
    return StudySpec(
        study_name="s",
        optuna_name="s",
        study_dir=str(folder),
        phase="search",
        space=Space((), ()),
        directions=("maximize",),
        sampler=None,
        pruner=None,
        budget=Budget(3),
        stop_file=str(folder / "stop"),
        storage=storage,
    )


def test_a_password_is_filled_in_where_the_worker_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XVOL_TEST_PASSWORD", "correct-horse")
    url = "postgresql://me:${oc.env:XVOL_TEST_PASSWORD}@host/name"
    assert resolved(url) == "postgresql://me:correct-horse@host/name"
    assert resolved("sqlite:///x.db") == "sqlite:///x.db"
    assert resolved(None) is None
    travels = spec(tmp_path, url)
    assert b"correct-horse" not in pickle.dumps(travels)
    assert "XVOL_TEST_PASSWORD" not in repr(travels)


def test_a_machine_without_the_variable_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XVOL_TEST_PASSWORD", raising=False)
    with pytest.raises(ValueError, match="every machine that runs a worker needs"):
        resolved("postgresql://me:${oc.env:XVOL_TEST_PASSWORD}@host/name")


def test_a_queue_is_opened_twice_on_one_study(tmp_path: Path) -> None:
    first = open_queue(spec(tmp_path))
    second = open_queue(spec(tmp_path))
    assert first.claim("a.lock") is not None
    assert second.counts().running == 1
