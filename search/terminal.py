"""A terminal while a study runs: a block of lines at its end that is drawn anew, and log lines that scroll by above it.

Several processes write to one terminal. Between two writes the cursor rests at the start of the block, so that whoever has a
line to say clears what is below and writes it; the block follows with its next drawing.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

__all__ = ["Block", "Console", "is_terminal"]

log = logging.getLogger("xvol")
CLEAR = "\x1b[J"  # from the cursor to the end of the screen
PLAIN_SECONDS = 60.0  # between two lines where there is no terminal
SHARE = 0.05  # of the time, at most, that is spent on asking how the study stands


def is_terminal(stream: Any) -> bool:
    """Whether the stream is a terminal on which the cursor can be moved."""
    return bool(getattr(stream, "isatty", lambda: False)()) and os.environ.get("TERM", "dumb") != "dumb"


class Console(logging.StreamHandler[TextIO]):
    """Writes log lines: on a terminal, above the block of lines that another process may have drawn there."""

    def format(self, record: logging.LogRecord) -> str:
        """As the formatter does."""
        text = super().format(record)
        return CLEAR + text if is_terminal(self.stream) else text


class Block:
    """Shows how something stands while the caller waits for it: in a terminal at its end, else by a log line now and then.

    Args:
        lines: how it stands, the line that matters first; asked in a thread of its own. What it raises is passed over.
        stream: where to; standard output by default.
        seconds: between two drawings.
    """

    def __init__(self, lines: Callable[[], Sequence[str]], stream: TextIO | None = None, seconds: float = 1.0) -> None:
        self._lines = lines
        self._stream = sys.stdout if stream is None else stream
        self._live = is_terminal(self._stream)
        self._seconds = seconds if self._live else PLAIN_SECONDS
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, name="standing", daemon=True)
        self._said = ""

    def __enter__(self) -> Block:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._live:
            self._write(CLEAR)

    def _show(self) -> None:
        pause = self._seconds
        while not self._ended.wait(pause):
            start = time.monotonic()
            try:
                lines = self._lines()
            except Exception as error:  # a storage that is away is told by those who need it
                log.debug("how the study stands is not known now: %s", error)
                continue
            pause = max(self._seconds, (time.monotonic() - start) / SHARE)
            if self._live:
                self._write(drawn(lines, *shutil.get_terminal_size()))
            elif lines and lines[0] != self._said:
                self._said = lines[0]
                log.info("%s", self._said)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the terminal is gone
            self._ended.set()


def drawn(lines: Sequence[str], width: int, height: int) -> str:
    """The block as it is written: cleared, its lines, and the cursor back at its start.

    Lines are cut at `width`, and those that a screen of `height` has no room for are counted; nothing in them can steer the
    terminal.
    """
    room = max(height - 2, 1)
    shown = list(lines[:room])
    if len(lines) > room:
        shown[-1] = f"... and {len(lines) - room + 1} more"
    texts = ["".join(c if c.isprintable() else "?" for c in line)[: max(width - 1, 1)] for line in shown]
    return CLEAR + "".join(f"{text}\n" for text in texts) + (f"\x1b[{len(texts)}A\r" if texts else "")
