"""A Hydra application of somebody's own: the task function and what it uses are defined in the script itself."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from search.study.launching.job import progress

LOCK = threading.Lock()


@dataclass
class Answer:
    x: int


class OddError(Exception):
    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} {right}")


def note(config: DictConfig, name: str, **facts: object) -> None:
    """Append a line to a file of this job; time is the same for all processes of the machine."""
    with (Path(config.notes) / f"{config.x}.{name}").open("a") as file:
        file.write(json.dumps({"at": time.monotonic(), "pid": os.getpid(), **facts}) + "\n")


def run(config: DictConfig) -> Answer:
    act = config.get("act", "sleep")
    job = HydraConfig.get()
    note(
        config,
        "start",
        env=dict(os.environ),
        torch="torch" in sys.modules,
        parent=os.getppid(),
        group=os.getpgrp(),
        num=job.job.num,
        id=job.job.id,
        dir=job.runtime.output_dir,
    )
    if act == "raise" and config.x == 2:
        raise OddError("no luck", "today")
    if act == "kill" and config.x == 2:
        lives = Path(config.notes) / "lives"
        left = int(lives.read_text())
        lives.write_text(str(left - 1))
        if left > 0:
            print("last words", file=sys.stderr)
            if config.get("progress"):
                progress()
            os.kill(os.getpid(), signal.SIGKILL)
    if act == "exit":
        os._exit(config.get("code", 7))
    if act == "chatter":
        for n in range(300):
            print(f"<{config.x} {n} {'x' * 2000}>")
            print(f"<{config.x} {n} {'y' * 2000}>", file=sys.stderr)
    if act in ("wait", "stubborn"):
        wait(config, stubborn=act == "stubborn")
    time.sleep(config.get("seconds", 0))
    note(config, "end")
    return Answer(config.x)


def wait(config: DictConfig, stubborn: bool) -> None:
    """Work until told to stop; a stubborn job does not listen."""
    while True:
        try:
            time.sleep(60)
        except (KeyboardInterrupt, SystemExit) as stop:
            print("saving")
            note(config, "saved", by=type(stop).__name__, code=getattr(stop, "code", None))
            if not stubborn:
                raise


@hydra.main(version_base="1.3", config_path=None)
def main(config: DictConfig) -> Answer:
    return run(config)


@hydra.main(version_base="1.3", config_path=None)
def locked(config: DictConfig) -> None:
    with LOCK:
        pass


if __name__ == "__main__":
    (locked if "+locked=true" in sys.argv else main)()
