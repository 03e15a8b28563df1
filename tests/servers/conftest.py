"""PostgreSQL and Redis from Debian's packages, in a folder of their own, on a free port, as a user without rights."""

from __future__ import annotations

import abc
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


class Server(abc.ABC):
    """A server that tests may stop and start again.

    Attributes:
        url: for `open_storage`.
    """

    url: str

    def __init__(self, command: list[str], folder: Path, port: int, user: str | None) -> None:
        self._command, self._folder, self._port, self._user = command, folder, port, user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, stdout=log, stderr=log, user=self._user, start_new_session=True
            )
        end = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < end, (self._folder / "log").read_text()
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it; SIGINT is PostgreSQL's fast shutdown, SIGKILL the loss of the machine."""
        process, self._process = self._process, None
        if process is None:
            return
        if how == signal.SIGKILL:
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        process.wait(30)

    @abc.abstractmethod
    def _answers(self) -> bool: ...


class Postgres(Server):
    def _answers(self) -> bool:
        ready = [_postgres_bin("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self._port), "-U", "me"]
        return subprocess.run(ready, check=False).returncode == 0


class Redis(Server):
    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), 1) as line:
                line.sendall(b"PING\r\n")
                return line.recv(5) == b"+PONG"
        except OSError:
            return False


def free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


def _postgres_bin(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    where = str(found[-1]) if found else shutil.which(name)
    if where is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return where


def _unprivileged(name: str) -> str | None:
    """The user to run a server as: None for ourselves, unless that is root, as whom PostgreSQL does not run."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(name).pw_name
    except KeyError:
        return "nobody"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the server's user can reach, unlike `tmp_path`."""
    path = Path(tempfile.mkdtemp(prefix="xvol-server-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def postgres(folder: Path) -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'xvol[postgres]'")
    server, initdb = _postgres_bin("postgres"), _postgres_bin("initdb")
    user, port, data = _unprivileged("postgres"), free_port(), folder / "data"
    if user is not None:
        shutil.chown(folder, user)
    subprocess.run(
        [initdb, "-D", data, "-U", "me", "-A", "trust", "-N", "--locale=C"],
        check=True, capture_output=True, user=user, cwd=folder,
    )  # fmt: skip
    command = [
        server,
        "-D",
        str(data),
        "-p",
        str(port),
        "-h",
        "127.0.0.1",
        "-k",
        str(folder),
        "-c",
        "shared_buffers=16MB",
    ]
    running = Postgres(command, folder, port, user)
    running.url = f"postgresql://me:secret77@127.0.0.1:{port}/postgres"
    running.start()
    yield running
    running.stop()


@pytest.fixture
def redis_server(folder: Path) -> Iterator[Redis]:
    pytest.importorskip("redis", reason="redis is not installed: pip install 'xvol[redis]'")
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("Redis is not installed: apt-get install redis-server")
    user, port = _unprivileged("redis"), free_port()
    if user is not None:
        shutil.chown(folder, user)
    command = [
        server,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(folder),
        "--appendonly",
        "yes",
        "--save",
        "",
    ]
    running = Redis(command, folder, port, user)
    running.url = f"redis://127.0.0.1:{port}/0"
    running.start()
    yield running
    running.stop(signal.SIGTERM)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "servers: needs PostgreSQL, Redis, Slurm or Ray on this machine")
