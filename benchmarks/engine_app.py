"""The application that benchmarks/engine.py sweeps: four parameters, no work. It runs under our sweeper and its rivals.

Nothing but Hydra is imported, so that a rival's environment runs the same file:

    python benchmarks/engine_app.py -m hydra/sweeper=xvol 'lr=interval(0,1)' ...

One line is appended to `trace` for each trial: its number, process, start and end on the system's monotonic clock, and
the CPU seconds of its process at the start.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig


@dataclass
class EngineApp:
    """What the application takes: four parameters, and what the benchmark sets.

    Attributes:
        lr, drop, depth, act: the parameters; the value of a trial is a function of them.
        trace: file that a line is appended to.
        shortest, longest: seconds; a trial sleeps for a length drawn evenly between them, by its number alone.
    """

    lr: float = 0.1
    drop: float = 0.0
    depth: int = 2
    act: str = "relu"
    trace: str = ""
    shortest: float = 0.0
    longest: float = 0.0


ConfigStore.instance().store(name="engine_app", node=EngineApp)


@hydra.main(version_base=None, config_path=None, config_name="engine_app")
def main(config: DictConfig) -> float:
    """Sleep as long as the trial is to last, and return a value."""
    began, cpu, number = time.monotonic(), time.process_time(), int(HydraConfig.get().job.num)
    if config.longest > 0:
        time.sleep(random.Random(number).uniform(config.shortest, config.longest))
    write_trace(config, began, cpu)
    return value_of(config)


def value_of(config: DictConfig) -> float:
    """What a trial returns."""
    return float((config.lr - 0.3) ** 2 + config.drop + config.depth + len(config.act))


def write_trace(config: DictConfig, began: float, cpu: float) -> None:
    """Append the line of a trial that ends now."""
    number = int(HydraConfig.get().job.num)
    line = f"{number} {os.getpid()} {began:.6f} {time.monotonic():.6f} {cpu:.6f}\n"
    descriptor = os.open(config.trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, line.encode())  # one write: lines of several processes do not mix
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
