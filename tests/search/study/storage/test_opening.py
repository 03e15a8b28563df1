"""The journal survives a torn last line, and a storage that cannot be opened is told without its password."""

from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.ledger.study_files import JOURNAL
from search.study.storage.journal import writing
from search.study.storage.opening import _driver, open_storage


def study(folder: Path) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=open_storage(None, folder), load_if_exists=True)


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_costs_that_line_alone(tmp_path: Path, cut: int) -> None:
    first = study(tmp_path)
    for value in (1.0, 2.0):
        first.tell(first.ask(), value)
    first.enqueue_trial({})
    journal = tmp_path / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-cut])
    again = study(tmp_path)
    again.tell(again.ask(), 3.0)
    assert [trial.value for trial in study(tmp_path).get_trials(states=(optuna.trial.TrialState.COMPLETE,))][:2] == [
        1,
        2,
    ]
    assert 3.0 in [trial.value for trial in study(tmp_path).trials]


@settings(max_examples=50, deadline=None)
@given(lines=st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line)), torn=st.binary(max_size=9000))
def test_only_what_follows_the_last_newline_is_cut(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], torn: bytes
) -> None:
    journal = tmp_path_factory.mktemp("journal") / "x.journal"
    whole = b"".join(line + b"\n" for line in lines)
    torn = torn.replace(b"\n", b"")
    journal.write_bytes(whole + torn)
    with writing(journal):
        pass
    assert journal.read_bytes() == whole


@pytest.mark.parametrize(
    "url", ["nosuch://me:secret77@host/x", "postgresql://me:secret77@127.0.0.1:1/x", "sqlite:////no/such/folder/x.db"]
)
def test_a_storage_that_cannot_be_opened_is_told_without_its_password(tmp_path: Path, url: str) -> None:
    if url.startswith("postgresql"):
        pytest.importorskip("psycopg")
    with pytest.raises(ValueError, match=r"hydra\.sweeper\.storage: cannot open .* Allowed are null") as caught:
        open_storage(url, tmp_path)
    assert "secret77" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_journal_elsewhere(tmp_path: Path) -> None:
    open_storage(f"journal:{tmp_path / 'a' / 'b.journal'}", tmp_path)
    assert (tmp_path / "a" / "b.journal").exists()


@pytest.mark.parametrize(
    ("spec", "extra", "missing"),
    [
        ("postgresql://me:secret77@host/x", "postgres", ("psycopg", "psycopg2")),
        ("postgresql+psycopg2://me:secret77@host/x", "postgres", ("psycopg2",)),
        ("redis://:secret77@host", "redis", ("redis",)),
    ],
)
def test_a_missing_driver_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, extra: str, missing: tuple[str, ...]
) -> None:
    monkeypatch.setattr("search.study.storage.opening._is_installed", lambda package: package not in missing)
    with pytest.raises(ValueError, match=rf"is not installed: pip install 'xvol\[{extra}\]'") as caught:
        open_storage(spec, tmp_path)
    assert "secret77" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "installed", "driver"),
    [
        ("postgresql", {"psycopg", "psycopg2"}, "psycopg"),
        ("postgresql", {"psycopg2"}, "psycopg2"),
        ("postgres", {"psycopg"}, "psycopg"),
        ("postgresql+psycopg2", {"psycopg", "psycopg2"}, "psycopg2"),
    ],
)
def test_postgresql_takes_the_driver_that_is_there(
    monkeypatch: pytest.MonkeyPatch, given: str, installed: set[str], driver: str
) -> None:
    monkeypatch.setattr("search.study.storage.opening._is_installed", installed.__contains__)
    assert _driver(given) == driver


@pytest.mark.parametrize("url", ["mysql://me:secret77@host/x", "postgresql+asyncpg://me:secret77@host/x", "redis:/x"])
def test_what_is_not_supported_is_told_at_once(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match=r"hydra\.sweeper\.storage: cannot open") as caught:
        open_storage(url, tmp_path)
    assert "secret77" not in str(caught.value)


def test_a_database_that_cannot_be_opened_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unable to open database file"):
        open_storage(f"sqlite:///{tmp_path / 'no' / 'such.db'}", tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []
