from __future__ import annotations

import io
import logging
import re
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search import terminal
from search.terminal import CLEAR, Block, Console, drawn


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and keeps what a reader sees: one line a row, cleared and overwritten."""

    def isatty(self) -> bool:
        return True


def screen(written: str) -> list[str]:
    """What stands on a screen that is high enough after all this was written."""
    rows, row, column = [""], 0, 0
    for part in re.split(r"(\x1b\[J|\x1b\[\d+A|\r|\n)", written):
        if part == CLEAR:
            rows = [*rows[:row], rows[row][:column]]
        elif part.startswith("\x1b["):
            row -= int(part[2:-1])
        elif part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
        else:
            rows[row] = rows[row][:column] + part + rows[row][column + len(part) :]
            column += len(part)
    return [each for each in rows if each]


def test_lines_of_others_stand_above_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    logger = logging.Logger("of another process")
    logger.addHandler(Console(stream))
    stream.write(drawn(["3 of 9 done", "  worker 1", "  worker 2"], 80, 24))
    logger.info("trial 3 ended")
    assert screen(stream.getvalue()) == ["trial 3 ended"]
    stream.write(drawn(["4 of 9 done", "  worker 1"], 80, 24))
    logger.info("trial 4 ended")
    stream.write(drawn(["5 of 9 done"], 80, 24))
    assert screen(stream.getvalue()) == ["trial 3 ended", "trial 4 ended", "5 of 9 done"]


def test_a_file_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    logger = logging.Logger("of a pipe")
    logger.addHandler(Console(stream))
    logger.info("trial 3 ended")
    assert stream.getvalue() == "trial 3 ended\n"


@pytest.mark.parametrize("term", ["dumb", None])
def test_a_terminal_without_a_cursor_is_none(monkeypatch: pytest.MonkeyPatch, term: str | None) -> None:
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    assert not terminal.is_terminal(Terminal())


@given(lines=st.lists(st.text(), max_size=60), width=st.integers(1, 200), height=st.integers(1, 60))
def test_a_block_fits_the_screen_and_nothing_in_it_steers_the_terminal(
    lines: Sequence[str], width: int, height: int
) -> None:
    text = drawn(lines, width, height).removeprefix(CLEAR)
    rows = text.split("\n")[:-1]
    assert len(rows) == min(len(lines), max(height - 2, 1))
    assert all(len(row) <= max(width - 1, 1) and row.isprintable() for row in rows)
    assert text.endswith(f"\x1b[{len(rows)}A\r") or not rows
    if len(lines) > len(rows) and width > 20:
        assert rows[-1] == f"... and {len(lines) - len(rows) + 1} more"


def test_a_block_is_drawn_while_the_caller_waits_and_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream, asked, fails = Terminal(), threading.Event(), iter([True])

    def lines() -> list[str]:
        if next(fails, False):
            raise OSError("the storage is away")
        asked.set()
        return ["1 of 2 done"]

    with Block(lines, stream, seconds=0.01):
        assert asked.wait(60)
    assert "1 of 2 done" in stream.getvalue()
    assert screen(stream.getvalue()) == []


def test_without_a_terminal_a_line_is_logged_where_it_has_changed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(terminal, "PLAIN_SECONDS", 0.01)
    said = iter(["1 of 2 done"] * 3 + ["2 of 2 done"])
    ended = threading.Event()

    def lines() -> list[str]:
        line = next(said, None)
        if line is None:
            ended.set()
        return [] if line is None else [line, "  worker 1"]

    with caplog.at_level("INFO", logger="xvol"), Block(lines, io.StringIO()):
        assert ended.wait(60)
    assert caplog.messages == ["1 of 2 done", "2 of 2 done"]
