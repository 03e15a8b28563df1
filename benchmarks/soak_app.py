"""The application that benchmarks/soak.py sweeps: a trial sleeps, writes its outcome, and leaves a trace of both ends.

The trace is kept outside of the study, so that an audit can hold the study against it. Lines of `trace`:

    start NUMBER X TOKEN PID FOLDER
    end   NUMBER X TOKEN PID FOLDER

TOKEN names one execution; an execution that was killed has no end.
"""

from __future__ import annotations

import json
import os
import random
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from search.ledger.files import write_atomic


@dataclass
class SoakApp:
    """What the application takes.

    Attributes:
        x: the parameter; drawn from an interval, so that equal values are one and the same proposal.
        shortest, longest: seconds; how long a trial lasts is drawn evenly between them.
        trace: file that lines are appended to.
    """

    x: float = 0.5
    shortest: float = 0.05
    longest: float = 0.3
    trace: str = ""


ConfigStore.instance().store(name="soak_app", node=SoakApp)


@hydra.main(version_base=None, config_path=None, config_name="soak_app")
def main(config: DictConfig) -> float:
    """Sleep, write the outcome whole or not at all, and return it."""
    folder, token = Path(HydraConfig.get().runtime.output_dir), uuid.uuid4().hex
    words = f"{HydraConfig.get().job.num} {config.x!r} {token} {os.getpid()} {folder}"
    append(config.trace, f"start {words}\n")
    time.sleep(random.uniform(config.shortest, config.longest))
    value = float((config.x - 0.25) ** 2)
    outcome = {"number": int(HydraConfig.get().job.num), "x": config.x, "value": value, "token": token}
    write_atomic(folder / "outcome.json", json.dumps(outcome))
    append(config.trace, f"end {words}\n")
    return value


def append(path: str, line: str) -> None:
    """Append a line to the trace, whole or not at all."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, line.encode())  # one write: lines of several processes do not mix, a kill tears none
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
