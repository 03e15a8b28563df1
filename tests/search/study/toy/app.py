"""A Hydra application without torch, to be run under the sweeper: the objective is a parabola with faults on demand."""

import os
import signal
import time
from pathlib import Path

import hydra
from omegaconf import DictConfig

from search.channel import Pruned, current


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config: DictConfig) -> float | tuple[float, ...]:
    channel = current()
    channel.note("arch_hash", f"x={config.x}")
    with Path(config.trace).open("a") as trace:
        trace.write(f"{channel.phase} {channel.number} {config.x} {config.seed} {os.getpid()}\n")
    time.sleep(config.seconds)
    if config.fault == "raise" and config.x in config.faulty:
        raise RuntimeError(f"no luck at x={config.x}")
    if config.fault == "no number" and config.x in config.faulty:
        return float("nan")
    if config.fault == "kill" and config.x in config.faulty and not Path(config.trace + ".killed").exists():
        Path(config.trace + ".killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    for epoch in range(1, 5):
        channel.report(epoch, -((config.x - 3) ** 2))
        if channel.should_prune():
            raise Pruned(f"pruned after epoch {epoch}")
    value = -float((config.x - 3) ** 2)
    return (value, float(config.x)) if config.two else value


if __name__ == "__main__":
    main()
