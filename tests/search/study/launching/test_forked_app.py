"""Checks in a forked process: what is answered, refused and broken there is so here, and its death costs nothing."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from search.channel import Application
from search.study.launching.forked_app import ForkedApplication
from search.study.launching.forkserver import ForkServer

CONFIG = OmegaConf.create({"hydra": {"hydra_logging": None, "verbose": False}})
ANSWERS = """
import json, os
from omegaconf import OmegaConf
from search.channel import Application

class OddError(ValueError):
    def __init__(self, left, right):
        super().__init__(f"{left} {right}")

class Answers(Application):
    checks = True
    asked = 0

    def check(self, config):
        self.asked += 1
        if config.get("refuse"):
            try:
                json.loads("{")
            except ValueError as error:
                raise ValueError("refused: x is too large") from error
        if config.get("odd"):
            raise OddError("no", "luck")
        if config.get("break"):
            json.loads("{")
        if config.get("die"):
            os.kill(os.getpid(), 9) if self.asked > 1 else None
        return {"pid": os.getpid(), "asked": self.asked, "x": config.x}

    def score(self, config, names):
        return {name: float(config.x) for name in names}
"""


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Application, ForkServer, Path]]:
    """An application of another package, a server that has imported it, and its file."""
    file = tmp_path / "answers_forked.py"
    file.write_text(ANSWERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    from answers_forked import Answers  # it was written just now

    server = ForkServer(os.environ, ["answers_forked"])
    yield Answers(), server, file
    server.close()
    sys.modules.pop("answers_forked")


def config(**values: Any) -> DictConfig:
    return OmegaConf.create({"x": 2, **values})


def test_one_process_answers_all_questions_until_it_is_closed(answers: tuple[Application, ForkServer, Path]) -> None:
    app, server, _ = answers
    there = ForkedApplication(app, server, CONFIG)
    first, second = there.check(config()), there.check(config(x=3))
    assert (first["pid"], second["asked"], second["x"]) == (second["pid"], 2, 3)
    assert first["pid"] != os.getpid()
    assert there.score(config(), ["a", "b"]) == {"a": 2.0, "b": 2.0}
    there.close()
    assert there.check(config())["asked"] == 1  # another one
    there.close()
    there.close()


def test_what_is_refused_there_is_raised_here_from_where_it_was_raised(
    answers: tuple[Application, ForkServer, Path],
) -> None:
    app, server, file = answers
    there = ForkedApplication(app, server, CONFIG)
    with pytest.raises(ValueError, match="x is too large") as refused:
        there.check(config(refuse=True))
    assert isinstance(refused.value.__cause__, ValueError)
    assert vars(refused.value)["raised_in"] == str(file)
    with pytest.raises(ValueError, match="Expecting") as broken:
        there.check(config(**{"break": True}))
    assert "json" in vars(broken.value)["raised_in"]  # no refusal of anybody's
    with pytest.raises(ValueError, match="no luck") as odd:
        there.check(config(odd=True))
    assert "OddError: no luck" in odd.value.__notes__[0]  # it cannot be made again out of its text
    assert there.check(config())["asked"] == 4
    there.close()


def test_the_death_of_the_process_or_of_its_server_costs_nothing(
    answers: tuple[Application, ForkServer, Path], caplog: pytest.LogCaptureFixture
) -> None:
    app, server, _ = answers
    there = ForkedApplication(app, server, CONFIG)
    pid = there.check(config())["pid"]
    os.kill(pid, signal.SIGKILL)
    assert there.check(config())["pid"] == os.getpid()
    assert "it is checked here" in caplog.text
    assert there.check(config())["pid"] not in (pid, os.getpid())
    there.close()
    os.kill(server._process.pid, signal.SIGKILL)
    end = time.monotonic() + 60
    while server._process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert there.check(config())["pid"] == os.getpid()
