"""Whether W&B's server answers, as all processes of a study know it: one that does not costs them some seconds in all, not each.

What was learned stands in `wandb/server.json` in the study's folder: seconds that were waited in vain, and until when nobody asks.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from search.ledger.files import write_atomic

RETRY_SECONDS = 600.0  # so long nobody asks a server that did not answer; twice as long after each further time
ANSWERED_SECONDS = 600.0  # so long a server that has answered is asked by all at once
LEAST_SECONDS = 2.0  # a shorter wait would take a slow server for a dead one


class Away(Exception):
    """The server did not answer a while ago, and is not asked again yet."""


class Server:
    """What the processes of a study know of the server.

    Args:
        study_dir: folder of the study.
        patience: seconds that it may cost in all.
    """

    def __init__(self, study_dir: Path, patience: float) -> None:
        self._folder, self._patience = study_dir / "wandb", patience

    @contextlib.contextmanager
    def asked(self) -> Iterator[float]:
        """A block that asks the server and raises where it does not answer; gives the seconds that it may take.

        Of several processes that know nothing of the server yet, one asks and the others wait for what it learns.

        Raises:
            Away: it is not to be asked now.
        """
        with contextlib.ExitStack() as stack:
            if time.time() - self._read("answered") > ANSWERED_SECONDS:
                stack.enter_context(self._alone())
            seconds = self.seconds_left()
            begun = time.monotonic()
            try:
                yield seconds
            except BaseException:
                self.waited(time.monotonic() - begun)
                raise
            self._write(self._state() | {"answered": time.time()})

    def seconds_left(self) -> float:
        """How long to wait for an answer now: half of what is left, so that later tries have something too.

        Raises:
            Away: it is not to be asked now.
        """
        seconds = (self._patience - self._read("spent")) / 2
        if time.time() < self._read("away_until") or seconds < LEAST_SECONDS:
            raise Away("W&B's server did not answer a while ago")
        return seconds

    def waited(self, seconds: float) -> None:
        """Write down that somebody waited in vain."""
        state = self._state()
        tries = int(state.get("tries", 0)) + 1
        until = time.time() + RETRY_SECONDS * 2 ** (tries - 1)
        spent = self._read("spent") + seconds
        self._write({"tries": tries, "spent": round(spent, 1), "away_until": until, "answered": 0.0})

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads((self._folder / "server.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _read(self, name: str) -> float:
        value = self._state().get(name, 0.0)
        return float(value) if isinstance(value, int | float) else 0.0

    def _write(self, state: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # on a full disk each process learns it by itself
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self._folder / "server.json", json.dumps(state) + "\n")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """A block that one process at a time is in, where the disk has file locks."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "server.lock").open("w") as file:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
