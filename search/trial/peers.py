"""The other processes of a trial on several GPUs: rank 0, the trial's own process, starts, watches and ends them.

A rank that dies, or raises, ends the trial, and its peers with it; none outlives rank 0.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist

from search.channel import EXIT_HUNG, Broken
from search.slot import at_work
from search.trial.ranks import Group

GRACE_SECONDS = 5.0  # for whoever hangs on a rank that is gone
LAST_SECONDS = 60.0  # for ranks that are at their last step, or read a batch for the next
LOOK_SECONDS = 0.5  # between two looks of a rank at whether rank 0 lives
_READY = b"ready"
Work = Callable[[bytes, torch.device, int, int, Callable[[], Group]], None]


class RankFailed(RuntimeError):
    """Another rank than 0 has raised; the message is its, and its traceback stands in the notes."""


@dataclass
class _Member:
    """Another rank, as rank 0 sees it."""

    rank: int
    process: SpawnProcess
    answers: Connection
    ready: bool = False
    failure: tuple[float, str, str] | None = None  # when it has raised, what in one line, and the traceback

    def hear(self) -> None:
        """Take what it has said."""
        with contextlib.suppress(EOFError, OSError):
            while self.answers.poll():
                data = self.answers.recv_bytes()
                if data == _READY:
                    self.ready = True
                else:
                    when, why, trace = data.decode().split("\0")
                    self.failure = float(when), why, trace


@contextlib.contextmanager
def several(
    work: Work,
    payload: bytes,
    world: int,
    device: torch.device,
    folder: Path,
    settle: Callable[[], None],
    slot: str,
    record: Callable[[BaseException], None],
) -> Iterator[Group]:
    """The group of `world` ranks, of which this process is the first, for the length of a `with` block.

    Args:
        work: importable; called in each other rank with the payload, its device, its rank, `world`, and what makes its group,
            to be called when it is ready.
        folder: where the ranks meet, on a disk with locks.
        settle, slot: of this process's exclusive slot; while the group lasts, giving way waits for all ranks.
        record: writes down why the trial ends where this process cannot go on, and must end.

    Raises:
        Broken: another rank has died.
        RankFailed: another rank has raised.
    """
    meeting = folder / f".{uuid.uuid4().hex}.ranks"  # a name that is taken away with what a killed writer left
    others = _Others(work, payload, world, device, meeting, record)
    group: Group | None = None
    try:
        others.await_ready()
        group = Group(0, world, device, meeting)

        def all_settle() -> None:
            settle()
            assert group is not None
            group.settle()

        at_work(slot, all_settle)
        yield group
    except BaseException as error:
        cause = others.cause_of(error)
        others.leave(group, error if cause is None else cause)
        if cause is None:
            raise
        raise cause from None
    else:
        others.leave(group)
    finally:
        at_work(slot, settle)
        meeting.unlink(missing_ok=True)


class _Others:
    """All ranks but the first: started, watched, and ended."""

    def __init__(
        self,
        work: Work,
        payload: bytes,
        world: int,
        device: torch.device,
        meeting: Path,
        record: Callable[[BaseException], None],
    ) -> None:
        self._record, self._leaving = record, threading.Event()
        self._members: list[_Member] = []
        context = torch.multiprocessing.get_context("spawn")  # a forked one could not use CUDA
        resource_tracker.ensure_running()  # which the first process would start, and let signals through behind it
        # a Ctrl-C at the terminal, and Slurm, reach all processes; what becomes of it is for rank 0 to say
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            for rank in range(1, world):
                ours, theirs = context.Pipe(duplex=False)
                place = (rank, world, device.type, str(meeting), os.getpid())
                process = context.Process(target=_enter, args=(work, payload, theirs, *place), name=f"rank {rank}")
                process.start()
                theirs.close()
                self._members.append(_Member(rank, process, ours))
        except BaseException:
            self._end()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        threading.Thread(target=self._watch, name="ranks-watch", daemon=True).start()

    def await_ready(self) -> None:
        """Wait until all have loaded their data; raise what ended one before."""
        while not all(member.ready for member in self._members):
            wait([each for member in self._members for each in (member.answers, member.process.sentinel)])
            cause = self._cause()
            if cause is not None:
                raise cause

    def cause_of(self, error: BaseException) -> BaseException | None:
        """Why another rank is gone, where that is what `error` comes from."""
        if isinstance(error, Broken | RankFailed):
            return None
        if type(error) is not RuntimeError and not isinstance(error, dist.DistError):  # what collective calls raise
            return None
        end = time.monotonic() + GRACE_SECONDS
        while (cause := self._cause()) is None and time.monotonic() < end:
            time.sleep(0.05)
        return cause

    def leave(self, group: Group | None, error: BaseException | None = None) -> None:
        """End the other ranks, softly where they wait for it; ends this process where it hangs on them."""
        self._leaving.set()
        if group is not None:
            soft = group.at_rest and all(member.process.is_alive() for member in self._members)
            if not soft:
                self._end()
            left = threading.Thread(target=_left, args=(group, soft), daemon=True)
            left.start()
            left.join(LAST_SECONDS if soft else GRACE_SECONDS)
            if left.is_alive():
                self._end()
                left.join(GRACE_SECONDS)
            if left.is_alive():
                self._give_up(error or Broken("the ranks did not come to an end together"))
            for member in self._members:
                member.process.join(GRACE_SECONDS)
        self._end()

    def _cause(self) -> BaseException | None:
        """The first that went wrong: a death before what it led to."""
        codes = [member.process.exitcode for member in self._members]
        for member, code in zip(self._members, codes, strict=True):
            member.hear()
            if code is not None and (code or not member.ready) and member.failure is None:
                return Broken(f"rank {member.rank} (process {member.process.pid}) {_ended(code)}")
        failed = sorted((member.failure, member.rank) for member in self._members if member.failure is not None)
        if not failed:
            return None
        (_, why, trace), rank = failed[0]
        error = RankFailed(f"rank {rank}: {why}")
        error.add_note(trace)
        return error

    def _watch(self) -> None:
        wait([member.process.sentinel for member in self._members])
        if self._leaving.wait(GRACE_SECONDS):
            return
        self._give_up(self._cause() or Broken("a rank has left"))  # the first thread waits in a driver, without end

    def _give_up(self, error: BaseException) -> NoReturn:
        log = logging.getLogger("xvol")
        log.error("%s; this process hangs on it, and is ended", error)
        self._record(error)
        os._exit(EXIT_HUNG)

    def _end(self) -> None:
        for member in self._members:
            member.process.kill()
        for member in self._members:
            member.process.join(GRACE_SECONDS)
            member.answers.close()


def _left(group: Group, soft: bool) -> None:
    with contextlib.suppress(RuntimeError):  # of a rank that went in this moment
        if soft:
            group.dismiss()
    dist.destroy_process_group()


def _ended(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"died by {name}" + " (which the kernel sends where memory has run out)" * (-code == signal.SIGKILL)


def _enter(
    work: Work, payload: bytes, answers: Connection, rank: int, world: int, kind: str, meeting: str, parent: int
) -> None:
    """What another rank's process does."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    warnings.simplefilter("ignore")  # rank 0 shows the same
    logging.disable()
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)

    def join() -> Group:
        answers.send_bytes(_READY)
        return Group(rank, world, device, Path(meeting))

    try:
        if kind == "cuda":
            torch.cuda.set_device(device)
        work(payload, device, rank, world, join)
        dist.destroy_process_group()
    except Exception as error:
        told = (str(time.monotonic()), f"{type(error).__name__}: {error}", traceback.format_exc())
        with contextlib.suppress(OSError):  # rank 0 is gone
            answers.send_bytes("\0".join(told).encode())
        os._exit(1)  # at once: the accelerator may hang


def _end_with(parent: int) -> None:
    """End this process when rank 0 is gone, whatever it waits for."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
