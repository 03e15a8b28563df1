"""The `local` launcher: a process for each job, each in a slot of this machine; a dead one is started again.

A task that says by `preloads` what it needs has it imported once, by the process that its jobs are forked from.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import selectors
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, configure_log, filter_overrides, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from search.channel import EXIT_HUNG
from search.ledger.secrets import mask
from search.study.launching.forkserver import ForkServer, fork_server
from search.study.launching.job import JobProcess, failed
from search.study.launching.slots import (
    Gpu,
    LocalLauncherOptions,
    Slot,
    check_options,
    slots,
    usable_cores,
    visible_gpus,
)

log = logging.getLogger("xvol")
TICK_SECONDS = 0.1
EXIT_SECONDS = 300.0  # from a job's return to the end of its process


def worker_count(
    launcher: DictConfig | Mapping[str, Any], n_jobs: int, gpus: Sequence[Gpu] | None = None, cores: int | None = None
) -> int:
    """How many worker jobs a sweeper should hand to the launcher of the node `hydra.launcher`.

    The basic launcher runs one job after the other, so one; `local` says it itself by `workers`, `per_gpu` and the machine,
    whose `gpus` and `cores` it looks for where they are not given; any other launcher gets `n_jobs`.

    Raises:
        ValueError, RuntimeError: the options of `local` do not fit this machine.
    """
    if str(launcher["_target_"]).endswith(".BasicLauncher"):
        return 1
    return len(_slots(_typed(launcher), gpus, cores)) if is_local(launcher) else n_jobs


def is_local(launcher: DictConfig | Mapping[str, Any]) -> bool:
    """Whether the node `hydra.launcher` is this module's launcher."""
    return str(launcher["_target_"]) == LocalLauncherOptions._target_


def launch(
    options: Mapping[str, Any],
    hydra_context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    initial_job_idx: int,
) -> list[JobReturn]:
    """Run one job for each list of overrides, at most one in each slot at once; return their ends in order.

    A job that raises has a return whose `return_value` raises the same. A process that dies by a signal, or asks for it
    with exit code 75, is started again (`restarts`); where that does not help, the return raises a RuntimeError that names
    the slot and the signal.

    Raises:
        ValueError: an option is out of its range, or the task cannot be sent to another process.
        RuntimeError: the machine has GPUs, and nvidia-smi does not say which.
        KeyboardInterrupt, SystemExit: after SIGINT, or SIGTERM, when all processes have ended.
    """
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    typed = _typed(options)
    places = _slots(typed)[: len(job_overrides)]
    Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    shared = _packed((hydra_context, config, task, Singleton.get_state()))
    payloads = [
        pickle.dumps((initial_job_idx + number, list(overrides), shared))
        for number, overrides in enumerate(job_overrides)
    ]
    log.info("%d job(s) in %d process(es): %s", len(payloads), len(places), ", ".join(slot.title for slot in places))
    server = server_of(typed, task.preloads if isinstance(task, _Preloading) else ())
    return _Launch(typed, places, payloads, job_overrides, initial_job_idx, server).run()


@runtime_checkable
class _Preloading(Protocol):
    """A task of which the modules that each of its jobs needs are known."""

    preloads: Sequence[str]


def server_of(
    launcher: DictConfig | Mapping[str, Any] | LocalLauncherOptions, modules: Sequence[str]
) -> ForkServer | None:
    """What forks the jobs of the node `hydra.launcher` that need these modules; None where they are not forked.

    Raises:
        ValueError: an option of `local` is of no use.
    """
    if not isinstance(launcher, LocalLauncherOptions):
        if not is_local(launcher):
            return None
        launcher = _typed(launcher)
        check_options(launcher)
    # what is the same in the environment of all jobs
    return fork_server({**os.environ, **Slot(0, None, launcher.threads).environment(), **launcher.env}, modules)


def _typed(options: DictConfig | Mapping[str, Any]) -> LocalLauncherOptions:
    typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(LocalLauncherOptions), dict(options)))
    assert isinstance(typed, LocalLauncherOptions)
    return typed


def _slots(options: LocalLauncherOptions, gpus: Sequence[Gpu] | None = None, cores: int | None = None) -> list[Slot]:
    if gpus is None:
        gpus = [] if options.device == "cpu" else visible_gpus()
    return slots(options, gpus, usable_cores() if cores is None else cores)


def _packed(parts: tuple[Any, ...]) -> bytes:
    try:
        data: bytes = cloudpickle.dumps(parts)
    except Exception as error:  # whatever a user's object raises from its `__reduce__`
        raise ValueError(
            f"the task cannot be sent to a process of its own ({type(error).__name__}: {error}). hydra/launcher=local packs the "
            "task function with all globals that it uses where it is defined in the script itself: make locks, open files and "
            "models inside the function, or move it into a module and import it; hydra/launcher=basic needs no packing"
        ) from error
    return data


class _Launch:
    """One call of the launcher."""

    def __init__(
        self,
        options: LocalLauncherOptions,
        places: Sequence[Slot],
        payloads: Sequence[bytes],
        overrides: Sequence[Sequence[str]],
        first: int,
        server: ForkServer | None,
    ) -> None:
        self._server = server
        self._options, self._payloads, self._overrides, self._first = options, payloads, overrides, first
        self._waiting = deque(range(len(payloads)))
        self._free = deque(places)
        self._running: list[JobProcess] = []
        self._ends: dict[int, JobReturn] = {}
        self._deaths = [0] * len(payloads)  # since the job last made progress
        self._signals: list[int] = []  # as they came
        self._heeded = 0
        self._is_told = False  # that it stops, by the application
        self._next_start = self._kill_at = 0.0

    def run(self) -> list[JobReturn]:
        with selectors.DefaultSelector() as selector, self._caught_signals():
            try:
                while self._running or (self._waiting and not self._signals):
                    self._start(selector)
                    for key, _ in selector.select(TICK_SECONDS):
                        if not key.data():
                            selector.unregister(key.fileobj)
                    self._heed_signals()
                    for process in list(self._running):
                        self._look_after(process, selector)
            except BaseException:
                self._abandon(selector)
                raise
        if self._signals:
            raise KeyboardInterrupt if self._signals[0] == signal.SIGINT else SystemExit(128 + self._signals[0])
        return [self._ends[job] for job in range(len(self._payloads))]

    def _start(self, selector: selectors.BaseSelector) -> None:
        if self._server is not None and not self._server.ready() and self._server.is_open:
            return  # it still imports
        while self._waiting and self._free and not self._signals and time.monotonic() >= self._next_start:
            job, slot = self._waiting.popleft(), self._free.popleft()
            env = {**os.environ, **slot.environment(), **self._options.env}
            process = JobProcess(job, slot, self._payloads[job], env, self._options.grace_seconds, self._server)
            self._running.append(process)
            process.register(selector)
            self._next_start = time.monotonic() + self._options.stagger_seconds

    def _look_after(self, process: JobProcess, selector: selectors.BaseSelector) -> None:
        process.flush()
        code = process.poll()
        if code is None:
            if process.result is not None and time.monotonic() - process.result_at > EXIT_SECONDS:
                log.warning("%s: the process did not end %g s after its job; killed", process.slot.title, EXIT_SECONDS)
                process.kill()
            return
        self._running.remove(process)
        self._free.append(process.slot)
        tail = process.close(selector)
        job = process.job
        if process.result is not None:  # whatever became of the process after that
            self._ends[job] = self._unpacked(job, process.result)
            return
        self._deaths[job] = 1 if process.progress else self._deaths[job] + 1
        if (code < 0 or code == EXIT_HUNG) and self._deaths[job] <= self._options.restarts and not self._signals:
            count = f"{self._deaths[job]} of {self._options.restarts}"
            log.warning("%s: %s; started again (%s)", process.slot.title, _ended(code), count)
            self._waiting.appendleft(job)
        else:
            self._ends[job] = failed(self._dead(process, code, tail), self._overrides[job])

    def _title(self, job: int) -> str:
        return f"job {self._first + job} {' '.join(filter_overrides(self._overrides[job]))}".rstrip()

    def _unpacked(self, job: int, data: bytes) -> JobReturn:
        try:
            end = pickle.loads(data)  # from the pipe of our own process
        except Exception as error:
            problem = f"{self._title(job)}: what it returned cannot be unpacked here ({type(error).__name__}: {error})"
            return failed(RuntimeError(problem), self._overrides[job])
        assert isinstance(end, JobReturn)
        return end

    def _dead(self, process: JobProcess, code: int, tail: list[str]) -> RuntimeError:
        deaths = self._deaths[process.job]
        often = f", {deaths} times without progress" if deaths > 1 else ""
        said = "\n".join(f"  {line}" for line in tail) or "  (nothing)"
        return RuntimeError(
            f"{process.slot.title}, {self._title(process.job)}: the worker {_ended(code)}{often} "
            f"(hydra.launcher.restarts={self._options.restarts}). Its last lines on stderr:\n{mask(said)}\n"
            "Run the same command again to go on"
        )

    @contextlib.contextmanager
    def _caught_signals(self) -> Iterator[None]:
        """Note SIGINT and SIGTERM in place of what they do by default; a handler of the application's own runs as well."""
        before: dict[int, Any] = {}

        def catch(number: int, frame: FrameType | None) -> None:
            self._signals.append(number)
            if self._is_handled(before[number]):
                before[number](number, frame)

        if threading.current_thread() is threading.main_thread():  # only the main thread may say so
            caught = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) not in (signal.SIG_IGN, None)]
            before = {each: signal.getsignal(each) for each in caught}
            for each in caught:
                signal.signal(each, catch)
            self._is_told = any(self._is_handled(handler) for handler in before.values())
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @staticmethod
    def _is_handled(handler: Any) -> bool:
        return callable(handler) and handler not in (signal.SIG_DFL, signal.default_int_handler)

    def _heed_signals(self) -> None:
        """The first signal asks each process to save and stop, the second ends them."""
        if self._kill_at and time.monotonic() > self._kill_at:
            log.warning("the workers did not stop within %g s: killed", self._options.grace_seconds)
            self._kill_at = 0.0
            self._kill()
        if len(self._signals) == self._heeded:
            return
        first = self._heeded == 0
        self._heeded = len(self._signals)
        if first and self._heeded == 1:
            if self._signals[0] == signal.SIGTERM:
                self._kill_at = time.monotonic() + self._options.grace_seconds
            if not self._is_told:
                log.warning("stopping: %d worker(s) save what they do; Ctrl-C again ends them now", len(self._running))
            for process in self._running:
                process.stop(self._signals[0])
        else:
            log.warning("stopping now")
            self._kill()

    def _kill(self) -> None:
        for process in self._running:
            process.kill()

    def _abandon(self, selector: selectors.BaseSelector) -> None:
        """After an exception in this process: stop the others before it is told; a signal more ends them now."""
        known, end = len(self._signals), time.monotonic() + self._options.grace_seconds
        with contextlib.suppress(KeyboardInterrupt, SystemExit):  # of the application's own handler, once more
            if known < 2:
                for process in self._running:
                    process.stop(signal.SIGTERM)
            while known == len(self._signals) < 2 and time.monotonic() < end:
                if all(process.poll() is not None for process in self._running):
                    break
                for process in self._running:
                    process.hear_stderr()
                time.sleep(TICK_SECONDS)
        self._kill()
        for process in self._running:
            process.close(selector)


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} before its job had"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (which the kernel sends where memory has run out)" if -code == signal.SIGKILL else ""
    return f"died by {name}{hint}"
