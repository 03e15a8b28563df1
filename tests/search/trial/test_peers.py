"""A rank that dies, raises or hangs ends the trial, in time and with its reason; no rank outlives the first."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch import Tensor, nn

from search import slot
from search.channel import EXIT_HUNG, Broken
from search.ledger.result import read_result
from search.slot import Turnstile
from search.trial import run
from search.trial.peers import RankFailed
from search.trial.untrained import prepare

from .conftest import Small, environment
from .test_state import ALWAYS, Halting, assert_equal_trials, train

TWO = (*ALWAYS, "ranks=2", "train.accumulate=2")


class Faulty(nn.Module):
    """Does `fault` in rank 1, before its third step."""

    def __init__(self, network: nn.Module, fault: Callable[[], Any]) -> None:
        super().__init__()
        self.network, self.fault, self.steps = network, fault, 0
        self.num_classes = network.num_classes

    def forward(self, images: Tensor) -> Tensor:
        self.steps += self.training
        if self.steps == 3 and dist.is_initialized() and dist.get_rank() == 1:
            self.fault()
        return self.network(images)


def no_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Let the networks of trials do something in rank 1."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])

    def make(fault: Callable[[], Any]) -> None:
        def prepared(*arguments: Any, **options: Any) -> Any:
            made = prepare(*arguments, **options)
            made.__dict__["model"] = Faulty(made.model, fault)
            return made

        monkeypatch.setattr(run, "prepare", prepared)

    yield make
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert not active_children()
    assert not dist.is_initialized()


@pytest.mark.slow
def test_a_rank_that_is_killed_interrupts_the_trial_which_goes_on(
    small: Small, tmp_path: Path, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(*TWO, "train.epochs=3")

    class Killing(Halting):
        """Kills rank 1 after the first epoch, and looks at the clock."""

        killed = 0.0

        def report(self, step: int, value: float) -> None:
            super().report(step, value)
            if step == 2 and not self.killed:
                os.kill(active_children()[0].pid or 0, signal.SIGKILL)
                self.killed = time.monotonic()

    channel = Killing()
    with pytest.raises(Broken, match=r"rank 1 \(process \d+\) died by SIGKILL \(which the kernel sends"):
        train(config, tmp_path / "dead", channel)
    assert time.monotonic() - channel.killed < 10
    assert not active_children()
    assert not dist.is_initialized()
    result = read_result(tmp_path / "dead/result.json")
    assert (result.status, result.epochs) == ("interrupted", 2)
    again = Halting(attempt=2, resume_from=str(tmp_path / "dead"))
    assert train(config, tmp_path / "again", again).resumed_from is not None
    train(small(*TWO, "train.epochs=3", "ranks=1"), tmp_path / "whole")
    assert_equal_trials(tmp_path / "whole", tmp_path / "again")


@pytest.mark.slow
def test_what_a_rank_raises_is_the_trials_error(small: Small, tmp_path: Path, faulty: Any) -> None:
    faulty(no_memory)
    with pytest.raises(RankFailed, match="rank 1: OutOfMemoryError: CUDA out of memory"):
        train(small(*TWO), tmp_path)
    result = read_result(tmp_path / "result.json")
    assert result.status == "failed"
    assert (result.reason or "").startswith("out of memory: RankFailed: rank 1: OutOfMemoryError: CUDA out of memory")
    assert "data.batch_size=32" in (result.reason or "")
    assert "in no_memory" in (tmp_path / "error.txt").read_text()
    assert not list(tmp_path.glob(".*.ranks"))


class Counting(nn.Module):
    """Keeps something of the images that it has seen, as a batch norm does, of which ranks know nothing."""

    def __init__(self, network: nn.Module, _: object) -> None:
        super().__init__()
        self.network, self.num_classes = network, network.num_classes
        self.register_buffer("brightest", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.brightest += images.sum()
        return self.network(images)


@pytest.mark.slow
def test_a_layer_that_learns_what_ranks_do_not_share_is_refused(
    small: Small, tmp_path: Path, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "Faulty", Counting)
    faulty(None)
    with pytest.raises(RuntimeError, match=r"the ranks hold different brightest: .*take ranks=1"):
        train(small(*TWO), tmp_path)


@pytest.mark.slow
def test_a_process_that_hangs_on_a_dead_rank_writes_the_record_and_ends(small: Small, tmp_path: Path) -> None:
    """As it would inside of a driver, where no exception reaches it."""
    script = tmp_path / "hangs.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "from multiprocessing import active_children\n"
        "from pathlib import Path\n"
        "import xvol\n"
        "from omegaconf import OmegaConf\n"
        "from search.channel import Channel, opened\n"
        "from search.trial.run import run_trial\n"
        "class Hangs(Channel):\n"
        "    def report(self, step, value):\n"
        "        os.kill(active_children()[0].pid, signal.SIGKILL)\n"
        "        time.sleep(1000)\n"
        "if __name__ == '__main__':\n"
        "    with opened(Hangs(phase='search')):\n"
        "        run_trial(OmegaConf.load(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    OmegaConf.save(small(*TWO), tmp_path / "config.yaml")
    command = [sys.executable, str(script), str(tmp_path / "config.yaml"), str(tmp_path / "trial")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == EXIT_HUNG, done.stderr[-2000:]
    result = read_result(tmp_path / "trial/result.json")
    assert result.status == "interrupted"
    assert "died by SIGKILL" in (result.reason or "")
    assert "hangs on it" in done.stderr


def below(parent: int) -> set[int]:
    """The processes that a process has started, and those that they have."""
    found: set[int] = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = status.read_text().partition(" ")
        except OSError:
            continue
        if int(rest.rpartition(")")[2].split()[1]) == parent:
            found |= {int(number), *below(int(number))}
    return found


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 120  # two processes import torch meanwhile
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_rank_outlives_the_first(small: Small, tmp_path: Path, number: signal.Signals) -> None:
    """Killed, or with all of them told to end, as a Ctrl-C at the terminal and Slurm do."""
    command = [sys.executable, "-m", "search", "data=digits", "train.epochs=500", "data.batch_size=64", "ranks=2"]
    command += [
        "train.accumulate=2",
        "tracker=disabled",
        f"hydra.run.dir={tmp_path}/trial",
        "device=cpu",
        "data.workers=0",
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log, start_new_session=True)
    history = tmp_path / "trial/history.csv"
    try:
        until(lambda: history.is_file() and len(history.read_text().splitlines()) > 2)
        others = below(process.pid)
        assert len(others) >= 2  # rank 1, and Python's own tracker of resources
        (process.kill if number == signal.SIGKILL else functools.partial(os.killpg, process.pid, number))()
        process.wait(60)
        until(lambda: not any(map(is_alive, others)))
    finally:
        process.kill()
        process.wait()
    if number == signal.SIGINT:  # SIGTERM is caught in a study alone
        assert read_result(tmp_path / "trial/result.json").status == "interrupted", (tmp_path / "log").read_text()
        assert not list((tmp_path / "trial").glob(".*.ranks"))


@pytest.mark.slow
def test_a_study_goes_on_when_a_rank_of_a_trial_is_killed(tmp_path: Path) -> None:
    """The local launcher gives each trial two places; the worker takes the trial up again from its last state."""
    command = [sys.executable, "-m", "search", "-m", "data=digits", "placement=none,stage3", "train.epochs=10"]
    command += [
        "data.batch_size=64",
        "train.accumulate=2",
        "train.state_every_seconds=0",
        "tracker=disabled",
        "checkpoint=never",
    ]
    command += [
        "hydra.launcher.gpus_per_trial=2",
        "hydra.launcher.workers=1",
        "hydra.launcher.device=cpu",
        "sampler=grid",
    ]
    command += ["hydra.sweeper.n_trials=2", "hydra.sweeper.final.top_k=0", f"hydra.sweep.dir={tmp_path}/study"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log, start_new_session=True)
    try:
        first = tmp_path / "study/trials/0000-s0"
        until(lambda: len(list(first.glob(".*.ranks"))) == 1 and (first / "state.pt").is_file())
        (rank,) = [
            number for number in below(process.pid) if b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes()
        ]
        os.kill(rank, signal.SIGKILL)
        assert process.wait(250) == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
    results = [read_result(path) for path in sorted((tmp_path / "study").glob("trials/*/result.json"))]
    assert sorted(result.status for result in results) == ["interrupted", "ok", "ok"]
    (dead,) = [result for result in results if result.status == "interrupted"]
    assert "rank 1 (process " in (dead.reason or "")
    (again,) = [result for result in results if result.resumed_from]
    assert (again.attempt, again.provenance["ranks"], again.epochs) == (2, 2, 10)


@pytest.mark.slow
def test_who_measures_finds_all_ranks_at_rest(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 holds the slot of the processors for all, and gives it up when all have done their step."""
    asked, done, cpu = threading.Event(), threading.Event(), []
    here = Turnstile("cpu", slot._own_folder())

    def measure() -> None:
        asked.wait(60)
        with here.alone() as lease:
            other = active_children()[0].pid
            ticks = [sum(map(int, Path(f"/proc/{other}/stat").read_text().rpartition(")")[2].split()[11:13]))]
            time.sleep(1)
            ticks += [sum(map(int, Path(f"/proc/{other}/stat").read_text().rpartition(")")[2].split()[11:13]))]
            cpu.append((lease.holds, ticks[1] - ticks[0]))
        done.set()

    class Asking(Halting):
        def stop_requested(self) -> bool:
            asked.set()
            return done.is_set()

    measuring = threading.Thread(target=measure)
    measuring.start()
    with pytest.raises(Exception, match="stopped; its state is saved"):
        train(small(*TWO, "train.epochs=500"), tmp_path, Asking())
    measuring.join()
    here.close()
    ((holds, ticks),) = cpu
    assert holds
    assert ticks <= 10  # hundredths of a second, in one second
