from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from search.ledger.files import NewerVersion
from search.ledger.study_files import JOURNAL
from search.study.storage.journal import first_bad_line, names_of_studies
from search.study.storage.opening import open_storage

LATER = b'{"op_code":42,"worker_id":"w"}\n'


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    study = optuna.create_study(study_name="s", storage=open_storage(None, tmp_path))
    for _ in range(3):
        study.tell(study.ask(), 1.0)
    return tmp_path / JOURNAL


def test_a_sound_journal(journal: Path) -> None:
    assert first_bad_line(journal) is None
    assert names_of_studies(journal) == {"s"}


@pytest.mark.parametrize("garbage", [b"\0\0\0\n", b"[1]\n", b"{}\n", b"\n", b'{"op_code":"4","worker_id":"w"}\n'])
def test_garbage_in_the_middle_is_found_and_told_with_what_can_be_done(journal: Path, garbage: bytes) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], garbage, *lines[2:]]))
    bad = first_bad_line(journal)
    assert bad is not None
    assert (bad.number, bad.offset, bad.newer, bad.torn) == (3, len(b"".join(lines[:2])), False, False)
    with pytest.raises(ValueError, match=r"line 3 is damaged .*xvol-check .* --repair"):
        open_storage(None, journal.parent)


def test_a_line_that_was_not_written_to_its_end(journal: Path) -> None:
    with journal.open("ab") as file:
        file.write(LATER[:-1])
    bad = first_bad_line(journal)
    assert bad is not None
    assert bad.torn
    assert open_storage(None, journal.parent).get_all_studies(), "the next writer cuts it off"


def test_an_operation_of_a_later_optuna_is_no_damage(journal: Path) -> None:
    content = journal.read_bytes()
    journal.write_bytes(content + LATER + content.splitlines(keepends=True)[-1])
    with pytest.raises(NewerVersion, match="operation 42, of a newer Optuna"):
        open_storage(None, journal.parent)
