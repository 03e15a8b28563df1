"""The `local` launcher under real applications: processes, slots, deaths, signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from search.study.launching.launcher import LocalLauncherOptions, worker_count
from search.study.launching.slots import Gpu

from ..conftest import Toy

FOLDER = Path(__file__).parent / "local"
ROOT = Path(__file__).resolve().parents[4]
SECONDS = 60.0


class App:
    """The application with the notes of its jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.environ = folder, {**os.environ, "PYTHONPATH": str(ROOT)}
        self.processes: list[subprocess.Popen[str]] = []

    def start(
        self, *overrides: str, program: tuple[str, ...] = (str(FOLDER / "app.py"),), before: Sequence[str] = ()
    ) -> "subprocess.Popen[str]":
        common = ["-m", "hydra/launcher=local", f"+notes={self.folder}", f"hydra.sweep.dir={self.folder}/out"]
        process = subprocess.Popen(
            [*before, sys.executable, *program, *common, *overrides],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=FOLDER,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def run(self, *overrides: str, **settings: Any) -> "subprocess.CompletedProcess[str]":
        process = self.start(*overrides, **settings)
        out, err = process.communicate(timeout=SECONDS)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def notes(self, name: str) -> list[dict[str, Any]]:
        lines = [line for path in sorted(self.folder.glob(f"*.{name}")) for line in path.read_text().splitlines()]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def wait_for(self, name: str, count: int) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.notes(name)) >= count or self.processes[-1].poll() is not None)
        assert len(self.notes(name)) >= count, self.processes[-1].communicate()
        return self.notes(name)


def wait_until(true: Callable[[], bool], seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    application = App(tmp_path)
    yield application
    left = [note["pid"] for note in application.notes("start") if lives(note["pid"])]
    for process in application.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
    for pid in left:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_jobs_run_at_the_same_time_each_in_a_fresh_process_and_folder(app: App) -> None:
    done = app.run("+x=1,2", "+seconds=4", "hydra.launcher.workers=2", "+hydra.launcher.env.MINE=own")
    assert done.returncode == 0, done.stderr
    starts, ends = app.notes("start"), app.notes("end")
    assert max(note["at"] for note in starts) < min(note["at"] for note in ends)
    assert len({note["pid"] for note in starts}) == 2
    assert {note["parent"] for note in starts} == {app.processes[0].pid}
    assert all(note["group"] == note["pid"] for note in starts)
    assert not any(note["torch"] for note in starts)
    assert [(note["num"], note["id"], note["dir"]) for note in starts] == [
        (0, "app_0", str(app.folder / "out" / "0")),
        (1, "app_1", str(app.folder / "out" / "1")),
    ]
    assert (app.folder / "out" / "1" / ".hydra" / "overrides.yaml").read_text().count("+x=2") == 1
    assert {(note["env"]["OMP_NUM_THREADS"], note["env"]["MINE"]) for note in starts} == {("1", "own")}
    assert "PYTHONSAFEPATH" not in starts[0]["env"]


@pytest.mark.slow
def test_more_jobs_than_workers_share_the_gpus_one_at_a_time(app: App) -> None:
    fake = app.folder / "nvidia-smi"
    fake.write_text('#!/bin/sh\ntest "$1" = -L || printf "0, GPU-a, 1000, 2000\\n1, GPU-b, 1000, 2000\\n"\n')
    fake.chmod(0o755)
    app.environ["PATH"] = f"{app.folder}:{app.environ['PATH']}"
    app.environ.pop("CUDA_VISIBLE_DEVICES", None)
    done = app.run("+x=1,2,3", "+seconds=1")
    assert done.returncode == 0, done.stderr
    starts = app.notes("start")
    assert [note["env"]["CUDA_VISIBLE_DEVICES"] for note in starts[:2]] == ["GPU-a", "GPU-b"]
    before = next(n for n in starts[:2] if n["env"]["CUDA_VISIBLE_DEVICES"] == starts[2]["env"]["CUDA_VISIBLE_DEVICES"])
    assert starts[2]["at"] > next(note["at"] for note in app.notes("end") if note["pid"] == before["pid"])
    assert "slot 0 (GPU GPU-a), slot 1 (GPU GPU-b)" in done.stdout


@pytest.mark.slow
def test_an_application_in_a_package(app: App) -> None:
    done = app.run("+x=1,2", "hydra.launcher.workers=1", program=("-m", "nested.app"))
    assert done.returncode == 0, done.stderr
    said = [json.loads(path.read_text()) for path in sorted(app.folder.glob("*.json"))]
    assert [note["said"] for note in said] == ["from a package"] * 2


@pytest.mark.slow
def test_an_exception_is_the_jobs_own_and_carries_its_trace(app: App) -> None:
    done = app.run("+x=1,2,3", "+act=raise", "hydra.launcher.workers=2")
    assert done.returncode == 1
    assert len(app.notes("end")) == 2
    assert "no luck today" in done.stderr
    assert 'raise OddError("no luck", "today")' in done.stderr


@pytest.mark.slow
def test_a_killed_worker_is_started_again(app: App) -> None:
    (app.folder / "lives").write_text("2")
    done = app.run("+x=1,2", "+act=kill", "hydra.launcher.workers=1", "hydra.launcher.restarts=2")
    assert done.returncode == 0, done.stderr
    assert len(app.notes("start")) == 4
    assert len(app.notes("end")) == 2
    assert "died by SIGKILL" in done.stdout
    assert "(2 of 2)" in done.stdout


@pytest.mark.slow
def test_a_worker_that_dies_too_often_is_told_and_the_others_go_on(app: App) -> None:
    (app.folder / "lives").write_text("9")
    done = app.run("+x=1,2,3", "+act=kill", "hydra.launcher.workers=1", "hydra.launcher.restarts=1")
    assert done.returncode == 1
    assert len(app.notes("start")) == 4
    assert len(app.notes("end")) == 2
    message = done.stderr[done.stderr.index("RuntimeError: ") :]
    assert message.startswith("RuntimeError: slot 0 (CPU), job 1 +notes=")
    assert "+x=2 +act=kill: the worker died by SIGKILL" in message
    assert "2 times without progress" in message
    assert "  last words\n" in message
    assert "Run the same command again" in message


@pytest.mark.slow
def test_progress_makes_earlier_deaths_forgotten(app: App) -> None:
    (app.folder / "lives").write_text("3")
    done = app.run("+x=2", "+act=kill", "+progress=true", "hydra.launcher.restarts=1")
    assert done.returncode == 0, done.stderr
    assert len(app.notes("start")) == 4


def test_a_process_that_just_ends_is_not_started_again(app: App) -> None:
    done = app.run("+x=1", "+act=exit")
    assert done.returncode == 1
    assert len(app.notes("start")) == 1
    assert "ended with exit code 7 before its job had" in done.stderr


@pytest.mark.slow
def test_a_process_may_ask_for_a_fresh_one(app: App) -> None:
    done = app.run("+x=1", "+act=exit", "+code=75", "hydra.launcher.restarts=1")
    assert done.returncode == 1
    assert len(app.notes("start")) == 2
    assert "ended with exit code 75" in done.stderr


@pytest.mark.slow
def test_lines_of_several_workers_stay_whole(app: App) -> None:
    app.environ["PYTHONUNBUFFERED"] = "1"  # which would let the end of a line come apart from it
    done = app.run("+x=1,2", "+act=chatter", "hydra.launcher.workers=2")
    assert done.returncode == 0, done.stderr
    for text, mark in ((done.stdout, "x"), (done.stderr, "y")):
        lines = [line for line in text.splitlines() if mark * 9 in line]
        assert sorted(lines) == sorted(f"<{job} {n} {mark * 2000}>" for job in (1, 2) for n in range(300))


def test_what_cannot_be_packed_is_told(app: App) -> None:
    done = app.run("+x=1", "+locked=true")
    assert done.returncode == 1
    assert "the task cannot be sent to a process of its own" in done.stderr
    assert "inside the function" in done.stderr
    assert "hydra/launcher=basic" in done.stderr


def test_ctrl_c_stops_the_jobs_softly_and_starts_no_more(app: App) -> None:
    process = app.start("+x=1,2,3", "+act=wait", "hydra.launcher.workers=2")
    starts = app.wait_for("start", 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    assert [note["by"] for note in app.notes("saved")] == ["KeyboardInterrupt"] * 2
    assert len(app.notes("start")) == 2
    assert not any(lives(note["pid"]) for note in starts)


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(app: App) -> None:
    process = app.start("+x=1,2", "+act=stubborn", "hydra.launcher.workers=2")
    starts = app.wait_for("start", 2)
    process.send_signal(signal.SIGINT)
    app.wait_for("saved", 2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SECONDS)
    assert len(app.notes("saved")) == 2
    assert not any(lives(note["pid"]) for note in starts)


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_a_handler_of_the_applications_own_is_called_too(app: App, signals: int) -> None:
    act = "wait" if signals == 1 else "stubborn"
    process = app.start("+x=1", f"+act={act}", program=(str(FOLDER / "handled.py"),))
    (start,) = app.wait_for("start", 1)
    process.send_signal(signal.SIGINT)
    app.wait_for("saved", 1)
    if signals == 2:
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=SECONDS)
    assert err.splitlines().count("handled") == signals
    assert "stopping: " not in out
    assert len(app.notes("saved")) == 1
    assert not lives(start["pid"])


@pytest.mark.slow
def test_sigterm_asks_and_after_the_grace_kills(app: App) -> None:
    process = app.start("+x=1", "+act=stubborn", "hydra.launcher.grace_seconds=1")
    (start,) = app.wait_for("start", 1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGTERM
    assert [note["code"] for note in app.notes("saved")] == [128 + signal.SIGTERM]
    assert "did not stop within 1 s" in out
    assert not lives(start["pid"])


@pytest.mark.slow
@pytest.mark.parametrize("act", ["wait", "stubborn"])
def test_workers_do_not_outlive_their_launcher(app: App, act: str) -> None:
    process = app.start("+x=1,2", f"+act={act}", "hydra.launcher.workers=2", "hydra.launcher.grace_seconds=1")
    starts = app.wait_for("start", 2)
    process.kill()
    wait_until(lambda: not any(lives(note["pid"]) for note in starts), seconds=15)
    assert [note["code"] for note in app.notes("saved")] == [128 + signal.SIGTERM] * 2


def test_a_job_saves_though_nobody_reads_its_output_any_longer(app: App) -> None:
    process = app.start("+x=1", "+act=wait")
    (start,) = app.wait_for("start", 1)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    process.kill()
    wait_until(lambda: not lives(start["pid"]), seconds=15)
    assert len(app.notes("saved")) == 1
    app.processes.clear()
    process.wait()


@pytest.mark.parametrize("event", ["ctrl-c", "closed"])
def test_at_a_terminal(app: App, event: str) -> None:
    """Ctrl-C reaches the workers through the launcher alone; a terminal that is closed ends the launcher, not the saving."""
    ours, theirs = os.openpty()
    name = os.ttyname(theirs)
    opened = ["sh", "-c", f'exec "$@" <>{name} >&0 2>&1', "sh"]  # the first to open it in a session owns it
    process = app.start("+x=1", "+act=wait", before=opened)
    (start,) = app.wait_for("start", 1)
    os.close(theirs)
    if event == "ctrl-c":
        os.write(ours, b"\x03")
        wait_until(lambda: process.poll() is not None)
    os.close(ours)
    wait_until(lambda: process.poll() is not None and not lives(start["pid"]), seconds=15)
    assert [note["code"] for note in app.notes("saved")] == [None if event == "ctrl-c" else 128 + signal.SIGTERM]


@pytest.mark.slow
def test_a_study_runs_under_it(toy: Toy, run: Callable[..., "subprocess.CompletedProcess[str]"]) -> None:
    two = ["hydra/launcher=local", "hydra.launcher.workers=2", "hydra.sweeper.n_jobs=2", "seconds=0.05"]
    run("x=range(0,8)", *two, "fault=kill", "faulty=[0,1,2,3,4,5,6,7]", "hydra.sweeper.n_trials=8")
    finished = [trial for trial in toy.study().get_trials() if trial.state.name == "COMPLETE"]
    assert len(finished) == 8
    assert len({line[4] for line in toy.trace}) >= 2


def test_hydra_finds_it_without_torch_or_optuna() -> None:
    assert "LocalLauncher" in [plugin.__name__ for plugin in Plugins.instance().discover(Launcher)]
    code = "import sys, hydra_plugins.xvol_launcher as p; print([m for m in ('torch', 'optuna') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_how_many_workers_a_launcher_takes() -> None:
    def launcher(target: str, **options: Any) -> Any:
        return OmegaConf.create({"_target_": target, **options})

    local = LocalLauncherOptions._target_
    assert worker_count(launcher("hydra._internal.core_plugins.basic_launcher.BasicLauncher"), 8) == 1
    assert (
        worker_count(launcher("hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", n_jobs=-1), 8) == 8
    )
    assert worker_count(launcher(local), 8, gpus=[], cores=3) == 3
    assert worker_count(launcher(local, per_gpu=2), 8, gpus=[Gpu("0"), Gpu("1")], cores=3) == 4
    assert worker_count(launcher(local, workers=2), 8, gpus=[], cores=3) == 2
    with pytest.raises(ValueError, match=r"hydra\.launcher\.workers=some"):
        worker_count(launcher(local, workers="some"), 8, gpus=[], cores=3)
