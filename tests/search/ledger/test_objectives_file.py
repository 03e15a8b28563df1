from __future__ import annotations

from pathlib import Path

import pytest

from search.ledger.objectives_file import OBJECTIVES_FILE, read_objectives, write_objectives


def test_what_was_written_is_read_in_its_order(tmp_path: Path) -> None:
    assert read_objectives(tmp_path) == {}
    senses = {"val_top1": "maximize", "latency_ms": "minimize"}
    write_objectives(tmp_path / "new", senses)
    assert list(read_objectives(tmp_path / "new").items()) == list(senses.items())


@pytest.mark.parametrize("text", ["", "[1]", '{"macs": "down"}', "\x00"])
def test_what_is_no_record_of_objectives_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / OBJECTIVES_FILE).write_text(text)
    with pytest.raises(ValueError, match=OBJECTIVES_FILE):
        read_objectives(tmp_path)
