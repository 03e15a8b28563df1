"""The final trial of a design with looks: its network was trained at a look, and is only read on the test data."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import torch
from torch import nn

from search.channel import Channel
from search.config import Config
from search.data.batches import Batches
from search.data.load import Data
from search.ledger.files import is_disk_full
from search.ledger.record import Record, read_history
from search.ledger.result import RESULT_FILE, TrialResult, read_result
from search.trial.checkpoint import CHECKPOINT_FILE, is_kept, load_checkpoint
from search.trial.reuse import copy_figures, link_weights
from search.trial.train import evaluate

__all__ = ["LostAtLook", "drop_weights", "read_on_test"]

MADE_BY = ("arch_hash", "recipe_hash", "seed", "epochs_planned", "code_digest", "data_digest")
log = logging.getLogger("xvol")


class LostAtLook(RuntimeError):
    """The network was not trained to its end at the looks, so there is nothing to read; the message says why."""


def read_on_test(
    model: nn.Module, data: Data, device: torch.device, config: Config, record: Record, channel: Channel
) -> bool:
    """Take over what the trial in `channel.trained_in` came to, and read its weights on the test data.

    Args:
        model: the untrained network, which is left as it is.

    Returns:
        False where that trial is another one or its weights are gone; the log says why, and this one is to be trained.

    Raises:
        LostAtLook: that trial failed.
    """
    assert channel.trained_in is not None
    assert data.test is not None
    folder = Path(channel.trained_in)
    try:
        earlier = read_result(folder / RESULT_FILE)
        if earlier.status != "ok":
            raise LostAtLook(f"not trained at the looks: {earlier.status} ({earlier.reason})")
        _refuse_other(earlier, record.result)
        history = read_history(folder)
        network = copy.deepcopy(model)
        network.load_state_dict(load_checkpoint(folder / CHECKPOINT_FILE))
        if is_kept(config.checkpoint, record.result.phase):
            link_weights(folder, record.folder)
    except LostAtLook:
        raise
    except (ValueError, OSError, RuntimeError) as error:  # load_state_dict says RuntimeError
        if is_disk_full(error):
            raise
        reason = str(error).splitlines()[0]
        log.warning("%s: its network cannot be read on test (%s): it is trained again", folder, reason)
        return False
    copy_figures(earlier, history, folder, record, channel)
    test = Batches(data.test, data, config.data, training=False, device=device)
    score = evaluate(network.to(device), test, config.train.amp)
    record.result.metrics |= {"test_top1": score.top1, "test_loss": score.loss}
    record.result.test_images = len(data.test.labels)
    return True


def drop_weights(config: Config, channel: Channel, result: TrialResult) -> None:
    """Remove the weights that the study kept until the test data were read, where the config keeps none."""
    if channel.trained_in is not None and result.status == "ok" and not is_kept(config.checkpoint, result.phase):
        (Path(channel.trained_in) / CHECKPOINT_FILE).unlink(missing_ok=True)


def _refuse_other(earlier: TrialResult, result: TrialResult) -> None:
    for name in MADE_BY:
        there, here = getattr(earlier, name), getattr(result, name)
        if there != here:
            raise ValueError(f"its {name} is {there}, here it is {here}")
