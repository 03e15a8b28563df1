"""A Hydra application inside a package, run with `python -m nested.app`."""

import json
import os
from pathlib import Path

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path=None)
def main(config: DictConfig) -> str:
    from .words import GREETING  # here: a worker has to find the package again, not the command alone

    (Path(config.notes) / f"{config.x}.json").write_text(json.dumps({"said": GREETING, "pid": os.getpid()}))
    return GREETING


if __name__ == "__main__":
    main()
