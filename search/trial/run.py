"""One trial, read from top to bottom: build, place, train, evaluate, fuse, measure, write down."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from search.channel import Channel, Pruned, current
from search.ledger.record import Record
from search.ledger.result import TrialResult, write_atomic
from search.ledger.secrets import mask
from search.ledger.tracker import Tracker
from search.space.architecture import Architecture
from search.trial.check import check_values
from search.trial.checkpoint import is_kept, save_checkpoint
from search.trial.config import Config, recipe_hash, typed
from search.trial.datasets.batches import Batches
from search.trial.datasets.load import Data, load_data
from search.trial.device import usable_device
from search.trial.measure import measure
from search.trial.model import build
from search.trial.train import Epoch, Trainer, evaluate

__all__ = ["run_trial"]

log = logging.getLogger("xvol")
ERROR_FILE = "error.txt"
_NO_MEMORY = re.compile("out of memory|can't allocate memory", re.I)  # accelerators; torch's CPU allocator


def run_trial(composed: DictConfig, folder: Path, overrides: Sequence[str] = ()) -> float | tuple[float, ...]:
    """Train and measure the architecture of `composed`, and write its record below `folder`.

    Args:
        overrides: what made the config out of its defaults; kept in the record for the reader.

    Returns:
        The values of `objectives`, a single one bare.

    Raises:
        Pruned: the study's pruner stopped the trial; recorded as "pruned".
        Exception: whatever went wrong; recorded as "failed", with its reason, before it is raised again.
    """
    channel = current()
    config = typed(composed)
    plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict)
    record = Record(folder, _first_row(config, plain, channel, folder))  # type: ignore[arg-type]
    result = record.result
    result.overrides = [mask(line) for line in overrides]
    tracker: Tracker | None = None
    try:
        check_values(config)
        torch.set_num_threads(config.threads)
        device = usable_device(config.device)
        data = load_data(config.data, with_test=channel.phase == "final")
        model, architecture = build(config, data.channels, len(data.classes), data.image_size)
        _state(result, architecture, data, channel)
        tracker = Tracker(config.tracker, folder, channel.study, _run_name(result), plain)  # type: ignore[arg-type]
        result.wandb_id = tracker.run_id
        _train_and_measure(config, model.to(device), data, record, tracker, channel)
        values = _objectives(config, result)
        result.status, result.reason = "ok", None
        log.info("%s: %s", _run_name(result), _summary(result))
        return values
    except Pruned as stop:
        result.status, result.reason = "pruned", str(stop)
        raise
    except BaseException as error:
        result.status = "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"
        result.reason = _reason(error)
        write_atomic(folder / ERROR_FILE, mask(traceback.format_exc()))
        raise
    finally:
        record.close()  # first: what W&B does, or a Ctrl-C while it uploads, cannot take the result away
        if tracker is not None:
            tracker.finish(result)


def _first_row(config: Config, plain: dict[str, Any], channel: Channel, folder: Path) -> TrialResult:
    return TrialResult(
        study=channel.study,
        trial=channel.number,
        phase=channel.phase,
        status="interrupted",  # what is true if nothing more can be written
        reason="not finished",
        is_baseline=channel.is_baseline,
        recipe_hash=recipe_hash(plain),
        seed=config.seed,
        backbone=config.backbone.name,
        epochs_planned=config.train.epochs,
        run_dir=str(folder.relative_to(channel.study_dir)) if channel.study_dir else folder.name,
    )


def _state(result: TrialResult, architecture: Architecture, data: Data, channel: Channel) -> None:
    """Write the architecture down, and tell it to the study."""
    result.arm, result.arch_hash = architecture.label, architecture.hash
    result.sites = architecture.sites
    result.branches = sorted({name for _, block in architecture.blocks for name in dict(block)["branches"]})
    result.data_source = data.source
    channel.note("arm", architecture.label)
    channel.note("arch_hash", architecture.hash)


def _train_and_measure(
    config: Config, model: torch.nn.Module, data: Data, record: Record, tracker: Tracker, channel: Channel
) -> None:
    result, device = record.result, next(model.parameters()).device
    train = Batches(data.train, data, config.data, training=True, seed=config.seed, device=device)
    val = Batches(data.val, data, config.data, training=False, device=device)
    trainer = Trainer(model, train, val, config.train)
    result.train_seconds = 0.0
    for epoch in trainer.epochs():
        record.epoch(vars(epoch))
        tracker.log(vars(epoch), step=epoch.epoch)
        result.val_top1, result.val_loss = epoch.val_top1, epoch.val_loss
        result.train_seconds += epoch.seconds
        log.info("%s: %s", _run_name(result), _progress(epoch, config.train.epochs, channel))
        _obey_pruner(config, result, epoch, channel)
    network = trainer.evaluated
    if data.test is not None:
        test = Batches(data.test, data, config.data, training=False, device=device)
        score = evaluate(network, test, config.train.amp)
        result.test_top1, result.test_loss = score.top1, score.loss
    if device.type == "cuda":
        result.peak_memory_mb = torch.cuda.max_memory_allocated(device) / 2**20
    if is_kept(config.checkpoint, result.phase):
        save_checkpoint(network, record.folder)
    costs = measure(network, (data.channels, data.image_size, data.image_size), config.measure, config.seed)
    for name, value in vars(costs).items():
        setattr(result, name, value)
    result.latency_batch = config.measure.latency_batch


def _obey_pruner(config: Config, result: TrialResult, epoch: Epoch, channel: Channel) -> None:
    objective = config.objectives[0]
    if objective not in ("val_top1", "val_loss"):
        return  # known from the start: there is nothing to learn by the epoch
    value = getattr(epoch, objective)
    channel.report(epoch.epoch, value)
    if epoch.epoch < config.train.epochs and channel.should_prune():
        raise Pruned(f"pruned after epoch {epoch.epoch} of {config.train.epochs} at {objective} {value:.4g}")


def _objectives(config: Config, result: TrialResult) -> float | tuple[float, ...]:
    values = []
    for name in config.objectives:
        value = getattr(result, name)
        if value is None:
            raise ValueError(f"objectives: {name} was not measured; is measure.latency_repeats 0?")
        values.append(float(value))
    return values[0] if len(values) == 1 else tuple(values)


def _reason(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".strip().rstrip(":")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY.search(text):
        text = f"out of memory: {text.splitlines()[0]}"
    if isinstance(error, KeyboardInterrupt):
        text = "interrupted"
    return mask(text)


def _run_name(result: TrialResult) -> str:
    return f"{result.phase} {result.trial} [{result.arm}] seed {result.seed}"


def _progress(epoch: Epoch, epochs: int, channel: Channel) -> str:
    standing = channel.standing()
    line = f"epoch {epoch.epoch}/{epochs} val {epoch.val_top1:.2f}% loss {epoch.train_loss:.3f} ({epoch.seconds:.1f}s)"
    return f"{line} | {standing}" if standing else line


def _summary(result: TrialResult) -> str:
    """The line that ends a trial."""
    test = "" if result.test_top1 is None else f", test {result.test_top1:.2f}%"
    speed = "" if result.latency_ms is None else f", {result.latency_ms:.2f} ms (fused {result.latency_fused_ms:.2f})"
    return (
        f"val {result.val_top1:.2f}%{test}, {result.params} params, {(result.macs or 0) / 1e6:.2f} M MACs{speed}, "
        f"fused logits differ by {result.fuse_error:.1e}"
    )
