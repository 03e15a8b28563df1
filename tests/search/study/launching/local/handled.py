"""An application with a SIGINT handler of its own, which is content with the first and raises at the second."""

import signal
import sys
from types import FrameType

import hydra
from app import Answer, run
from omegaconf import DictConfig

seen: list[int] = []


def handle(number: int, frame: FrameType | None) -> None:
    seen.append(number)
    print("handled", file=sys.stderr, flush=True)
    if len(seen) > 1:
        raise KeyboardInterrupt


@hydra.main(version_base="1.3", config_path=None)
def main(config: DictConfig) -> Answer:
    return run(config)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, handle)
    main()
