"""The weights that a trial's scores are of, on disk: a plain state dict, written whole or not at all."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search.ledger.files import write_whole
from search.ledger.paths import CHECKPOINT_FILE
from search.ledger.result import Phase

__all__ = ["CHECKPOINT_FILE", "is_kept", "load_checkpoint", "save_checkpoint"]


def is_kept(when: str, phase: Phase) -> bool:
    """Whether a trial of that phase keeps its weights, by the config's `checkpoint`: "never", "final" or "always"."""
    return when == "always" or (when == "final" and phase != "search")


def save_checkpoint(network: nn.Module, folder: Path) -> Path:
    """Write the state dict of `network`, its tensors on the CPU, to `folder/checkpoint.pt`; return the path.

    Raises:
        OSError: it cannot be written; torch's writer tells no more of a full disk than that it failed.
    """
    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    path = folder / CHECKPOINT_FILE
    try:
        write_whole(path, lambda temporary: torch.save(state, temporary))
    except RuntimeError as error:
        if not re.search("inline_container|PytorchStreamWriter", str(error)):
            raise
        raise OSError(errno.ENOSPC, "torch could not write all of it: is the disk full?", str(path)) from error
    return path


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a state dict; only tensors are taken from the file, never code (`weights_only=True`).

    Raises:
        ValueError: the file cannot be read, or holds something else than a state dict.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on a torn file torch's unpickler fails in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: torch {torch.__version__} cannot read it as a state dict ({reason}); train the trial again"
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: expected a state dict, that is names and tensors; found {type(state).__name__}")
    return dict(state)
