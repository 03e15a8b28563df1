"""An application's checks, made in a process that is forked as workers are, so that the command itself loads no torch.

That process answers one question after the other, and keeps what it has loaded for the next. What it refuses is raised here, as
if it had been checked here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import configure_log, setup_globals
from omegaconf import DictConfig, OmegaConf

from search.channel import Application
from search.ledger.secrets import mask_logs, note_variables
from search.study.launching.forkserver import ForkedProcess, ForkServer

log = logging.getLogger("xvol")
SIZE = 8  # bytes of the length that goes before each message


class ForkedApplication:
    """Asks `app` in another process what takes torch to answer: `check`, `facts` and `score`, as `Application` has them.

    Args:
        server: forks the process with the first question; where it cannot, `app` is asked here.
        config: the study's; the process logs as it says, and masks the secrets that it names.
    """

    def __init__(self, app: Application, server: ForkServer, config: DictConfig) -> None:
        self._app, self._server, self._config = app, server, config
        self._child: ForkedProcess | None = None

    def check(self, config: DictConfig) -> dict[str, Any]:
        """See `Application.check`."""
        return dict(self._ask("check", config))

    def facts(self, config: DictConfig) -> dict[str, Any]:
        """See `Application.facts`."""
        return dict(self._ask("facts", config))

    def score(self, config: DictConfig, names: Sequence[str]) -> dict[str, float]:
        """See `Application.score`."""
        return dict(self._ask("score", config, names))

    def close(self) -> None:
        """End the process; another question starts another."""
        if self._child is None:
            return
        child, self._child = self._child, None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        self._to.close()
        self._from.close()

    def _ask(self, method: str, *arguments: Any) -> Any:
        answer = self._answer(method, arguments) if self._child is not None or self._begin() else None
        if answer is None:
            return getattr(self._app, method)(*arguments)
        value, error, place = pickle.loads(answer)  # from the pipe of our own process
        if error is not None:
            refusal, cause = error
            refusal.raised_in = place  # whether that is ours says whether it tells the user something
            raise refusal from cause
        return value

    def _begin(self) -> bool:
        """Have the process forked; False where that cannot be."""
        if not self._server.wait_ready():
            return False
        theirs, self_to = os.pipe()
        self_from, answers = os.pipe()
        sys.stdout.flush()
        self._child = self._server.start((theirs, answers, 2))
        for handle in (theirs, answers):
            os.close(handle)
        self._to, self._from = os.fdopen(self_to, "wb"), os.fdopen(self_from, "rb")
        head = {"path": sys.path, "env": dict(os.environ), "run": f"{__name__}:answer"}
        shared = cloudpickle.dumps((self._app, self._config, Singleton.get_state()))
        if self._child is None or not self._tell(json.dumps(head).encode() + b"\n", _sized(shared)):
            self._to.close()
            self._from.close()
            self._child = None
        return self._child is not None

    def _answer(self, method: str, arguments: tuple[Any, ...]) -> bytes | None:
        if self._tell(_sized(cloudpickle.dumps((method, arguments)))) and (data := _message(self._from)):
            return data
        log.warning("the process that checks has died; it is checked here")
        self.close()
        return None

    def _tell(self, *parts: bytes) -> bool:
        try:
            self._to.write(b"".join(parts))
            self._to.flush()
        except BrokenPipeError:
            return False
        return True


def answer(inbox: BinaryIO, _: Mapping[str, Any], outbox: int) -> None:
    """Answer until nobody asks any more: the whole life of the process."""
    os.set_inheritable(inbox.fileno(), False)
    os.set_inheritable(outbox, False)
    app, config, singletons = pickle.loads(_message(inbox))
    setup_globals()
    Singleton.set_state(singletons)
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    note_variables(OmegaConf.to_container(config, resolve=False))
    mask_logs()
    with os.fdopen(outbox, "wb") as answers, contextlib.suppress(BrokenPipeError):
        while data := _message(inbox):
            method, arguments = pickle.loads(data)
            answers.write(_sized(_answered(app, method, arguments)))
            answers.flush()


def _answered(app: Application, method: str, arguments: tuple[Any, ...]) -> bytes:
    """The value, or the error with its cause, and where that was raised."""
    try:
        return pickle.dumps((getattr(app, method)(*arguments), None, ""))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1].filename
        error.add_note("In the process that checks:\n" + "".join(traceback.format_exception(error)).rstrip())
        for told in ((error, error.__cause__), (error, None)):
            with contextlib.suppress(Exception):
                data = pickle.dumps((None, told, place))
                pickle.loads(data)  # one with a signature of its own may be packed well, and not be unpacked
                return data
        kind = next(kind for kind in (ValueError, RuntimeError, Exception) if isinstance(error, kind))
        plain = kind(str(error))
        plain.__notes__ = list(error.__notes__)
        return pickle.dumps((None, (plain, None), place))


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(SIZE, "big") + data


def _message(file: BinaryIO) -> bytes:
    """The next message; empty at the end."""
    return file.read(int.from_bytes(file.read(SIZE), "big"))
