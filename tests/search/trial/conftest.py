"""Small trials: a few hundred digits at 16x16, one epoch, no W&B."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import xvol  # noqa: F401  # before anything imports timm: see xvol/timm_hook.py
from search import slot
from search.config import Config, register
from search.trial import measure

Small = Callable[..., DictConfig]
SMALL = {
    "data": {"train_size": 256, "val_size": 100, "test_size": 80, "batch_size": 64, "eval_batch_size": 64},
    "train": {"epochs": 1, "lr": 0.1, "ema_decay": 0.5},
    "measure": {"latency_batch": 4, "latency_repeats": 1},
    "tracker": {"mode": "disabled"},
}


@pytest.fixture(scope="session")
def small() -> Small:
    """A composed config of a small trial, changed by overrides such as "train.lr=0.2"."""
    register()

    def make(*overrides: str) -> DictConfig:
        config = OmegaConf.merge(OmegaConf.structured(Config), SMALL, OmegaConf.from_dotlist(list(overrides)))
        assert isinstance(config, DictConfig)
        return config

    return make


def environment() -> dict[str, str]:
    """Of a process that a test starts: this checkout's code, one thread."""
    path = os.pathsep.join([str(Path(__file__).resolve().parents[3]), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path.rstrip(os.pathsep)}


@pytest.fixture(scope="session", autouse=True)
def _own_slots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests wait for no worker of this machine, and what else it does marks none of their latencies."""
    folder = tmp_path_factory.mktemp("slots")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slot, "_own_folder", lambda: folder)
        patch.setattr(measure, "LEAST_CPU_SHARE", 0.0)
        slot._turnstile.cache_clear()  # tests of other folders have trained in this process
        yield
    slot._turnstile.cache_clear()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
