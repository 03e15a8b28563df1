"""Answers that are lost on the wire: the server did as it was told, and the connection broke before it could say so."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.study.storage.opening import open_storage

pytestmark = [pytest.mark.servers, pytest.mark.filterwarnings("ignore:Heartbeat of storage")]


class Wire:
    """Passes bytes on between clients and a server; `cut` drops the server's answer to the next message of a kind."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._kind: bytes | None = None
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, kind: bytes) -> None:
        self._kind = kind

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server))
            doomed = threading.Event()
            threading.Thread(target=self._pass_on, args=(client, server, doomed), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, client, doomed), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self._kind is not None and self._kind in data:
                    self._kind = None
                    doomed.set()
                server.sendall(data)
        _close(client, server)

    def _answer(self, server: socket.socket, client: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if doomed.is_set():  # the server has answered, so it has done it
                    self.cuts += 1
                    break
                client.sendall(data)
        _close(client, server)


def _close(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


def through(server: Any, folder: Path) -> Iterator[tuple[optuna.Study, Wire]]:
    wire = Wire(server._port)
    storage = open_storage(server.url.replace(str(server._port), str(wire.port)), folder, patience_seconds=30)
    yield optuna.create_study(study_name="s", storage=storage), wire
    wire.close()


@pytest.fixture
def by_postgres(postgres: Any, tmp_path: Path) -> Iterator[tuple[optuna.Study, Wire]]:
    yield from through(postgres, tmp_path)


@pytest.fixture
def by_redis(redis_server: Any, tmp_path: Path) -> Iterator[tuple[optuna.Study, Wire]]:
    yield from through(redis_server, tmp_path)


@pytest.mark.parametrize("way", [pytest.param("by_postgres", id="postgres"), pytest.param("by_redis", id="redis")])
def test_whatever_answer_is_lost_the_study_is_as_if_none_were(way: str, request: pytest.FixtureRequest) -> None:
    study, wire = request.getfixturevalue(way)
    kind = b"COMMIT" if way == "by_postgres" else b"EVAL"

    def lose() -> None:
        wire.cut(kind)

    lose()
    study.enqueue_trial({"x": 0.5}, user_attrs={"cell": 1})
    trial = study.ask()
    lose()
    assert trial.suggest_float("x", 0, 1) == 0.5
    lose()
    trial.report(0.25, 1)
    lose()
    trial.set_user_attr("a", 1)
    lose()
    study.tell(trial, 2.0)
    lose()
    second = study.ask()
    lose()
    study.tell(second, state=TrialState.FAIL)
    assert wire.cuts == 7
    first, last = study.trials
    assert (first.number, first.state, first.value) == (0, TrialState.COMPLETE, 2.0)
    assert first.params == {"x": 0.5}
    assert first.intermediate_values == {1: 0.25}
    assert first.user_attrs == {"cell": 1, "a": 1}
    assert (last.number, last.state) == (1, TrialState.FAIL)


def test_a_redis_that_lost_records_is_told(redis_server: Any, tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(redis_server.url, tmp_path, patience_seconds=30))
    study.tell(study.ask(), 1.0)
    redis_server.stop(signal.SIGKILL)
    shutil.rmtree(redis_server._folder / "appendonlydir")
    redis_server.start()
    with pytest.raises(RuntimeError, match=r"has lost records of this study.*appendonly yes"):
        study.ask()
    another = optuna.create_study(study_name="s", storage=open_storage(redis_server.url, tmp_path))
    for _ in range(10):
        another.tell(another.ask(), 5.0)
    with pytest.raises(RuntimeError, match="has lost records"):  # others have written as many since
        study.get_trials()


def test_optunas_own_backend_reads_the_redis_journal(redis_server: Any, tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(redis_server.url, tmp_path))
    for value in range(4):
        study.tell(study.ask(), float(value))
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        backend = optuna.storages.journal.JournalRedisBackend(redis_server.url, prefix=f"xvol:{tmp_path.name}")
    other = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))
    assert [trial.value for trial in other.trials] == [0, 1, 2, 3]
