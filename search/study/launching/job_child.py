"""The child's side of the `local` launcher: take one Hydra job from a pipe, run it, hand back what became of it.

The process is a fresh interpreter, so that it imports torch after its environment is set and shares no CUDA state. It
reads the job from the launcher and never from a file; the same pipe tells it that the launcher has died.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from omegaconf import open_dict

from search.study.launching.stopping import EXIT_HUNG

READY, PROGRESS, DONE = b"R", b"P", b"D"  # one letter, then 8 bytes with the length of what follows
HEAD = 9
AGAIN = EXIT_HUNG  # the exit code by which a job asks for a fresh process
WATCH_SECONDS = 1.0

_outbox: int | None = None  # where the launcher listens; None in a process of another launcher


class _Stopped(SystemExit):
    """SIGTERM asks the job to save what it has and to stop."""


def progress() -> None:
    """Tell the `local` launcher that this worker gets on, so that its earlier deaths are forgotten; else do nothing."""
    if _outbox is not None:
        _send(_outbox, PROGRESS)


def main(inbox: BinaryIO, head: Mapping[str, Any], outbox: int, stderr_end: int, launchers_stderr: int) -> None:
    """Run the job that `inbox` holds.

    Args:
        inbox: the job; ends when the launcher dies.
        head: "argv", "parent" (process id), "size" of the job in bytes, "grace" in seconds.
        outbox: file descriptor for READY, PROGRESS and DONE.
        stderr_end: the reading end of our own stderr, held so that writing never fails after the launcher's death.
        launchers_stderr: where the launcher's own stderr goes.
    """
    global _outbox
    for handle in (inbox.fileno(), outbox, stderr_end, launchers_stderr):
        os.set_inheritable(handle, False)
    sys.argv[:] = head["argv"]
    for stream in (sys.stdout, sys.stderr):
        # whole lines, each in one write; PYTHONUNBUFFERED would write a line and its end apart
        stream.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]
    code = 0
    try:
        signal.signal(signal.SIGTERM, _on_sigterm)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` leaves it ignored
        payload = inbox.read(head["size"])
        _outbox = outbox
        watch = (inbox.fileno(), head["parent"], head["grace"], launchers_stderr)
        threading.Thread(target=_watch, args=watch, name="launcher-watch", daemon=True).start()
        _send(outbox, READY)
        _send(outbox, DONE, _packed(_outcome(payload)))
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except _Stopped:
        code = 128 + signal.SIGTERM
    sys.exit(code)


def failed(error: BaseException, overrides: Sequence[str]) -> JobReturn:
    """The return of a job that raised `error`, or never came to its end."""
    job = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    job.return_value = error
    return job


def _outcome(payload: bytes) -> JobReturn:
    overrides: list[str] = []
    try:
        number, overrides, shared = pickle.loads(payload)  # from the launcher's pipe
        return _run(number, overrides, shared)
    except _Stopped:
        raise
    except SystemExit as error:
        return failed(RuntimeError(f"the job ended itself with sys.exit({error.code!r})"), overrides)
    except Exception as error:  # it could not be unpacked or composed here, or a callback raised
        return failed(error, overrides)


def _run(number: int, overrides: Sequence[str], shared: bytes) -> JobReturn:
    """Set this process up as the launcher's is, and run the job as Hydra's own launchers do."""
    context, config, task, singletons = pickle.loads(shared)
    setup_globals()
    Singleton.set_state(singletons)
    sweep_config = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(sweep_config):
        sweep_config.hydra.job.id = f"{sweep_config.hydra.job.name}_{number}"
        sweep_config.hydra.job.num = number
    HydraConfig.instance().set_config(sweep_config)
    return run_job(
        hydra_context=context,
        task_function=task,
        config=sweep_config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _packed(job: JobReturn) -> bytes:
    """The job's return as bytes; what cannot travel is told in words."""
    error = _error_of(job)
    if error is not None:
        error.add_note("In the job's process:\n" + "".join(traceback.format_exception(error)).rstrip())
    try:
        data: bytes = cloudpickle.dumps(job)
        if error is not None:
            pickle.loads(data)  # an exception with a signature of its own is packed well, and then cannot be unpacked
        return data
    except Exception as trouble:
        if error is not None:
            told = RuntimeError(f"{type(error).__name__}: {error}")
            told.__notes__ = list(error.__notes__)
        else:
            told = RuntimeError(
                f"the job came to its end, but its return value cannot be sent to the launcher ({trouble}): return "
                "numbers, text, or other plain values"
            )
        plain: bytes = cloudpickle.dumps(failed(told, job.overrides or []))
        return plain


def _error_of(job: JobReturn) -> BaseException | None:
    with contextlib.redirect_stderr(io.StringIO()):  # where Hydra announces it
        try:
            job.return_value  # noqa: B018
        except BaseException as error:
            return error
    return None


def _send(handle: int, kind: bytes, body: bytes = b"") -> None:
    data = memoryview(kind + len(body).to_bytes(HEAD - 1, "big") + body)
    with contextlib.suppress(BrokenPipeError):  # the launcher is dead: `_watch` sees it as well
        while data:
            data = data[os.write(handle, data) :]


def _on_sigterm(number: int, _: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the second one must not cut short what the first one saves
    raise _Stopped(128 + number)


def _watch(inbox: int, parent: int, grace: float, launchers_stderr: int) -> None:
    """Wait for the launcher's death; then ask the job to stop, and after `grace` seconds end all processes of the job."""
    poller = select.poll()
    poller.register(inbox, select.POLLIN)
    while os.getppid() == parent:  # a forked relative of the launcher may hold the pipe open
        if poller.poll(WATCH_SECONDS * 1000) and not os.read(inbox, 1):
            break
    os.dup2(launchers_stderr, 2)
    for stream in (1, 2):
        if _is_broken(stream):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)  # a print must not fail while the job saves
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(grace)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _is_broken(stream: int) -> bool:
    """Whether nobody can read what is written: a closed terminal, or a pipe without a reader."""
    poller = select.poll()
    poller.register(stream, 0)
    return any(event & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, event in poller.poll(0))
