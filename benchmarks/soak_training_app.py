"""The application that `benchmarks/soak.py --app training` sweeps: search's own, which also leaves a trace of both ends.

A start is written once torch is loaded, so that a kill soon after it meets a training and not an import.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from soak_app import append

from search.app import Trainings
from search.channel import InFlight
from search.config import config_folder, register


class Traced(Trainings):
    """Runs each trial as `python -m search` does; lines of the trace are those of soak_app.py, with the overrides as X."""

    def train(self, config: DictConfig) -> Any:
        """Train, between two lines of the trace."""
        import search.trial.run  # noqa: F401  # here: the parent needs no torch

        hydra_config = HydraConfig.get()
        overrides = ",".join(hydra_config.overrides.task).replace(" ", "")
        folder = Path(hydra_config.runtime.output_dir)
        words = f"{hydra_config.job.num} {overrides} {uuid.uuid4().hex} {os.getpid()} {folder}"
        append(os.environ["SOAK_TRACE"], f"start {words}\n")
        try:
            value = super().train(config)
        except InFlight:  # it trained nothing, and comes back to its folder
            append(os.environ["SOAK_TRACE"], f"wait {words}\n")
            raise
        append(os.environ["SOAK_TRACE"], f"end {words}\n")
        return value


if __name__ == "__main__":
    register()
    hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")(Traced())()
