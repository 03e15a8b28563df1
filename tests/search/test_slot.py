"""Real processes at one turnstile: who works stands still while somebody measures, whoever dies meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from search import slot
from search.slot import Turnstile, _own_folder

START = multiprocessing.get_context("spawn")


def stepping(folder: Path, log: Path) -> None:
    """Work in steps of a millisecond for ever; write down when each began and ended."""
    turnstile = Turnstile("cpu", folder)
    turnstile.work()
    with log.open("w", buffering=1) as file:
        while True:
            begin = time.monotonic()
            time.sleep(0.001)
            file.write(f"{begin} {time.monotonic()}\n")
            turnstile.give_way()


def measuring(folder: Path, log: Path) -> None:
    """Measure for ever, from inside of work."""
    turnstile = Turnstile("cpu", folder)
    turnstile.work()
    with log.open("w", buffering=1) as file:
        while True:
            with turnstile.alone() as lease:
                begin = time.monotonic()
                time.sleep(0.02)
                file.write(f"{begin} {time.monotonic()} {lease.holds}\n")
            turnstile.give_way()


def stuck(folder: Path, log: Path) -> None:
    """Hold the slot, or the work, and never come back."""
    turnstile = Turnstile("cpu", folder)
    if log.name == "working":
        turnstile.work()
        log.touch()
        time.sleep(600)
    with turnstile.alone():
        log.touch()
        time.sleep(600)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    begun = []

    def begin(role: Callable[[Path, Path], None], name: str) -> Any:
        process = START.Process(target=role, args=(tmp_path, tmp_path / name), daemon=True)
        process.start()
        begun.append(process)
        deadline = time.monotonic() + 60
        while not (tmp_path / name).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.join()


def spans(log: Path) -> list[list[float]]:
    return [[float(part) for part in line.split()[:2]] for line in log.read_text().splitlines()[:-1]]


@pytest.mark.slow
def test_nobody_works_while_somebody_measures_and_all_get_their_turn(start: Callable[..., Any], tmp_path: Path) -> None:
    """Two who work, two who measure from inside of work: no two of them at once, no dead-lock, nobody starves."""
    roles = {"a": stepping, "b": stepping, "c": measuring, "d": measuring}
    for name, role in roles.items():
        start(role, name)
    deadline = time.monotonic() + 60
    while any(len(spans(tmp_path / name)) < 5 for name in roles):
        assert time.monotonic() < deadline, "somebody starves"
        time.sleep(0.05)
    found = {name: spans(tmp_path / name) for name in roles}
    assert all(" False" not in (tmp_path / name).read_text() for name in "cd")
    for measurer in "cd":
        others = [span for name in roles if name != measurer for span in found[name]]
        for begin, end in found[measurer]:
            assert not [span for span in others if span[0] < end and begin < span[1]]


@pytest.mark.parametrize("role", ["working", "measuring"])
def test_a_killed_holder_holds_nothing(
    start: Callable[..., Any], tmp_path: Path, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(stuck, role)
    monkeypatch.setattr(slot, "WAIT_SECONDS", 0.1)
    turnstile = Turnstile("cpu", tmp_path)
    with turnstile.alone() as lease:
        assert not lease.holds  # it is measured all the same, and said so
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with turnstile.alone() as lease:
        assert lease.holds
    turnstile.close()


def test_who_works_does_not_wait_for_ever_and_who_measures_knows(
    start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(stuck, "measuring")
    monkeypatch.setattr(slot, "MOST_SECONDS", 0.2)
    turnstile = Turnstile("cpu", tmp_path)
    begin = time.monotonic()
    turnstile.work()
    assert 0.2 <= turnstile.waited <= time.monotonic() - begin
    waited = turnstile.waited
    turnstile.give_way()  # it has waited for this one, and goes on
    assert turnstile.waited == waited
    with Turnstile("other", tmp_path).alone() as lease:
        assert lease.holds
        time.sleep(0.25)
        assert not lease.holds


def test_waiting_is_no_time_of_work(start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(stuck, "measuring")
    monkeypatch.setattr(slot, "_own_folder", lambda: tmp_path)
    monkeypatch.setattr(slot, "MOST_SECONDS", 0.5)
    slot._turnstile.cache_clear()
    try:
        begin, real = slot.clock(), time.monotonic()
        slot.at_work("cpu")
        assert time.monotonic() - real >= 0.5
        assert slot.clock() - begin < 0.4
        with slot.idle():
            assert not slot.turnstile("cpu")._holds  # type: ignore[union-attr]
    finally:
        slot.off_work()
        slot._turnstile.cache_clear()


def test_a_folder_that_is_not_ours_gives_no_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot, "_own_folder", _own_folder)
    monkeypatch.setattr(slot.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / f"xvol-slots-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="not a folder of this user's"):
        Turnstile("cpu")
    slot._turnstile.cache_clear()
    assert slot.turnstile("cpu") is None
    slot.at_work("cpu")
    slot.give_way()
    slot.off_work()
    slot._turnstile.cache_clear()


def test_a_look_at_the_gate_costs_microseconds(tmp_path: Path) -> None:
    turnstile = Turnstile("cpu", tmp_path)
    turnstile.work()
    start = time.process_time()
    for _ in range(1000):
        turnstile.give_way()
    assert (time.process_time() - start) / 1000 < 1e-4  # 2e-6 on a quiet machine
