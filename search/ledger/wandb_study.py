"""A study's own run in Weights & Biases, by a process beside the study: started with its workers, and told its table at the end.

Nobody waits for it but at the end of the study, and there for as long as a server may cost at most.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from search.ledger.files import write_atomic
from search.ledger.secrets import mask
from search.ledger.tracker import OF_WANDB, TrackerConfig
from search.ledger.wandb_table import (
    SEND_SECONDS,
    Sent,
    StudyTable,
    answer_of,
    as_line,
    end,
    plain,
    send_table,
    staging_of,
    started,
    tidy_up,
)

log = logging.getLogger("xvol")
_START = (
    "import json, sys; job = json.loads(sys.stdin.readline()); sys.path[:] = job['path']; "
    "from search.report.live import main; main(job)"
)


class StudyProcess:
    """The process that holds the run of the study in `study_dir`; nothing is started where W&B is not asked for."""

    def __init__(self, study_dir: Path) -> None:
        self._dir = study_dir
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, config: TrackerConfig, study: str) -> None:
        """Start it, the first time that this is asked for; `study` is the study's name."""
        if self._process is not None or config.mode not in OF_WANDB:
            return
        self._config, self._run_id = config, study_run_id(self._dir)
        self._staging = staging_of(self._dir, self._run_id)
        try:
            self._process = started(_START, self._staging)
            job = {"path": sys.path, "study_dir": str(self._dir), "study": study}
            self._say(job | {"tracker": asdict(config), "run_id": self._run_id})
        except OSError as error:
            log.warning("W&B: the study has no live run: %s", mask(str(error)))

    def send(self, config: TrackerConfig, table: StudyTable) -> Sent | None:
        """Log the table in the study's run and finish that; where it cannot, as `send_table`. Returns and raises as that does."""
        answer = None
        if self._process is not None:
            answer = self._ended(plain(table))
            if answer is not None and "error" not in answer:
                mode = "online" if answer["url"] else "offline"
                tidy_up(self._dir / "wandb", self._run_id, mode, Path(answer["folder"]), self._staging)
                return Sent(run_id=self._run_id, mode=mode, where=answer["url"] or answer["folder"])
            log.warning("W&B: the study's run got no table: %s", (answer or {}).get("error", "its process has ended"))
        return send_table(config, table, _limit(config))

    def close(self) -> None:
        """End the run where that is not done: the study was interrupted, or ended without a table."""
        if self._process is not None:
            self._ended(None)

    def _ended(self, table: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """What the process says when it has ended; it is ended after the patience."""
        process, self._process = self._process, None
        assert process is not None
        late = threading.Timer(_limit(self._config), end, [process])
        late.start()
        try:
            out, errors = process.communicate(None if table is None else as_line(table))
        except OSError:  # it is gone
            return None
        finally:
            late.cancel()
            end(process)
        log.debug("W&B: %s", mask(errors.decode(errors="replace")))
        return answer_of(out)

    def _say(self, job: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(as_line(job))
        self._process.stdin.flush()


def _limit(config: TrackerConfig) -> float:
    """Seconds that the process may take at its end; offline no server is waited for, and a machine may be busy."""
    return config.patience if config.mode == "online" else SEND_SECONDS


def study_run_id(study_dir: Path) -> str:
    """Id of the study's run: the same whenever the study goes on, and of no other study of its name."""
    path = study_dir / "wandb" / "study.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(path.read_text(encoding="utf-8"))["run_id"])
    run_id = f"study-{uuid.uuid4().hex[:10]}"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({"run_id": run_id}) + "\n")
    return run_id
