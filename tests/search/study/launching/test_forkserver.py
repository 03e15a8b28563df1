"""Real servers: what they fork is a process of its own, they say why they must not fork, and nothing hangs on their death."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cloudpickle
import pytest
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from search.study.launching import forkserver
from search.study.launching.forkserver import ForkServer, end_server, fork_server
from search.study.launching.job import JobProcess
from search.study.launching.slots import Slot

ROOT = Path(__file__).resolve().parents[4]
SECONDS = 60.0


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ForkServer]]:
    """Start a server that has imported a module of this source."""
    made = []
    monkeypatch.syspath_prepend(str(tmp_path))

    def begin(source: str = "", **environ: str) -> ForkServer:
        (tmp_path / "needed.py").write_text(source)
        made.append(ForkServer({**os.environ, "ALL": "server", **environ}, ["needed"]))
        wait_until(lambda: made[-1].ready() or not made[-1].is_open)
        return made[-1]

    yield begin
    for server in made:
        server.close()


class Telling:
    """Its unpickling in the job's process writes down what that is."""

    def __init__(self, file: Path, sleeps: float = 0.0) -> None:
        self.file, self.sleeps = file, sleeps

    def __reduce__(self) -> tuple[object, tuple[str, float]]:
        return tell, (str(self.file), self.sleeps)


def tell(file: str, sleeps: float) -> None:
    facts = {
        "pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "env": dict(os.environ),
        "needed": "needed" in sys.modules, "drawn": __import__("numpy").random.random(), "path": sys.path,
    }  # fmt: skip
    Path(file).write_text(json.dumps(facts))
    time.sleep(sleeps)


def job(file: Path, server: ForkServer | None, sleeps: float = 0.0, number: int = 0) -> JobProcess:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        payload = cloudpickle.dumps(Telling(file, sleeps))
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": str(number)}
    process = JobProcess(number, Slot(number, None, 1), payload, env, 1.0, server)
    while process.feed():
        time.sleep(0.001)
    return process


def ended(process: JobProcess) -> JobReturn:
    wait_until(lambda: process.poll() is not None)
    process.hear()
    assert process.poll() == 0
    assert process.result is not None
    result = pickle.loads(process.result)
    assert isinstance(result, JobReturn)
    return result


def test_a_forked_job_is_a_process_of_its_own_with_what_was_imported(
    start: Callable[..., ForkServer], tmp_path: Path
) -> None:
    server = start("import numpy")
    files = [tmp_path / f"{number}.json" for number in range(2)]
    jobs = [job(file, server, number=number) for number, file in enumerate(files)]
    for process in jobs:
        ended(process)
    told = [json.loads(file.read_text()) for file in files]
    for number, facts in enumerate(told):
        assert facts["needed"]
        assert facts["pid"] == facts["session"] == jobs[number]._process.pid
        assert facts["parent"] == server._process.pid
        assert facts["env"]["CUDA_VISIBLE_DEVICES"] == str(number)
        assert "ALL" not in facts["env"]  # it has the environment of its slot, and no other
        assert facts["path"] == sys.path
    assert told[0]["drawn"] != told[1]["drawn"]


def test_the_end_of_a_forked_job_is_told_as_of_any_process(start: Callable[..., ForkServer], tmp_path: Path) -> None:
    server, file = start(), tmp_path / "told.json"
    process = job(file, server, sleeps=600)
    wait_until(file.exists)
    assert process.poll() is None
    process.kill()
    wait_until(lambda: process.poll() is not None)
    assert process.poll() == -signal.SIGKILL
    assert server.is_open


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True, name='ours').start()", "ours"),
        ("import no_such_module", "no_such_module"),
        ("held = open('/dev/null')", "/dev/null"),
    ],
)  # fmt: skip
def test_where_an_import_has_spoilt_the_process_jobs_are_not_forked(
    source: str, why: str, start: Callable[..., ForkServer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sitecustomize.py").write_text(  # /dev/null stands for an accelerator's device file
        "from search.study.launching import forkserver; forkserver._DEVICES = ('/dev/nu',)"
        if why == "/dev/null"
        else ""
    )
    with caplog.at_level("INFO"):
        server = start(source, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert not server.is_open
    assert why in caplog.text
    ended(job(tmp_path / "told.json", server))
    assert not json.loads((tmp_path / "told.json").read_text())["needed"]


def test_the_death_of_the_server_ends_its_jobs_and_stops_no_launch(
    start: Callable[..., ForkServer], tmp_path: Path
) -> None:
    server, file = start(), tmp_path / "told.json"
    process = job(file, server, sleeps=600)
    wait_until(file.exists)
    os.kill(server._process.pid, signal.SIGKILL)
    wait_until(lambda: process.poll() is not None)
    assert process.poll() == -signal.SIGKILL
    wait_until(lambda: not Path(f"/proc/{process._process.pid}").exists() or zombie(process._process.pid))
    ended(job(file, server))  # in a fresh interpreter
    assert not json.loads(file.read_text())["needed"]


def zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_server_ends_with_its_launcher(tmp_path: Path) -> None:
    code = (
        "import os; from search.study.launching.forkserver import ForkServer\n"
        "server = ForkServer(os.environ, ['json'])\n"
        "while not server.ready(): pass\n"
        "print(server._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=SECONDS, check=False
    )
    pid = int(done.stdout)
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or zombie(pid))


def test_one_server_serves_the_launches_that_need_the_same() -> None:
    try:
        one = fork_server(os.environ, ["json"])
        assert fork_server(os.environ, ["json"]) is one
        assert fork_server(os.environ, ["csv"]) is not one
        assert one is not None
        assert not one.is_open
        assert fork_server(os.environ, []) is None
    finally:
        end_server()


def test_where_a_fork_is_not_safe_there_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forkserver, "HAS_FORK", False)
    assert fork_server(os.environ, ["json"]) is None


def test_an_application_says_what_its_trials_import() -> None:
    from search.app import application  # pulls Hydra's application in, which the others here do without

    config = OmegaConf.create({"data": {"name": "digits"}, "tracker": {"mode": "offline"}})
    assert list(application.preloads(config)) == [
        *("wandb.apis.public", "search.trial.run", "xvol.surgery", "search.data.digits"),
    ]
    config = OmegaConf.create({"data": {"name": "choice(a,b)"}, "tracker": {"mode": "disabled"}})
    assert list(application.preloads(config)) == ["search.trial.run", "xvol.surgery"]
