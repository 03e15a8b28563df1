"""One trial, read from top to bottom: build, ask the study, train, evaluate, fuse, measure, write down."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import re
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import xvol
from search.channel import Channel, Infeasible, InFlight, Pruned, Stopped, current
from search.config import Config, recipe_hash, typed
from search.data.batches import Batches
from search.data.load import Data, load_data
from search.ledger.files import is_disk_full, write_atomic
from search.ledger.metric import columns_on
from search.ledger.paths import run_in_words
from search.ledger.record import Record
from search.ledger.result import TrialResult
from search.ledger.secrets import mask
from search.ledger.tracker import Tracker
from search.slot import at_work, off_work
from search.space.architecture import Architecture
from search.trial.admission import (
    LATENCIES,
    admitted,
    fingerprint_of,
    measure_before_training,
    score_untrained,
)
from search.trial.average import check_average
from search.trial.check import check_values
from search.trial.checkpoint import is_kept, save_checkpoint
from search.trial.content import Content, content_of, on_record
from search.trial.device import device_name, slot_name, synchronize, usable_device
from search.trial.looked import drop_weights, read_on_test
from search.trial.measure import chance_top1, measure
from search.trial.model import build
from search.trial.reuse import take_over, tell_outdated
from search.trial.state import Saver, adopt, begin, discard
from search.trial.train import Epoch, Halted, Trainer, evaluate

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
        Infeasible: the study refused the network before it was trained; recorded as "infeasible".
        InFlight: another worker is training the same trial; recorded as "duplicate".
        Stopped: the study asked running trials to stop; recorded as "interrupted", with its state saved.
        Exception: whatever went wrong; recorded as "failed", with its reason, before it is raised again. A full disk is
            recorded as "interrupted", where that can still be written, and the saved state is kept.
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
        interrupted = adopt(channel.resume_from, folder)
        check_values(config)
        torch.set_num_threads(config.threads)
        device = usable_device(config.device)
        at_work(slot_name(device), functools.partial(synchronize, device))
        result.provenance["device"] = device_name(device)
        data = load_data(config.data, with_test=channel.phase == "final")
        model, architecture = build(config, data.channels, len(data.classes), data.image_size)
        _state(result, architecture, data, channel)
        content = content_of(model, config.backbone.name, data.digest)
        result.fingerprint = _made_by(result, recipe_hash(plain, anywhere=True), content)  # type: ignore[arg-type]
        judged = channel.phase == "search" or not set(LATENCIES).isdisjoint(channel.costs)
        measure_before_training(result, model, config, data, device, channel.costs, judged=judged)
        read = channel.trained_in is not None and read_on_test(model, data, device, config, record, channel)
        earlier = None if read else admitted(channel, result)
        while earlier is not None and not take_over(earlier, record, config, channel):
            earlier = channel.unfit(earlier)
        if read:
            log.info("%s: trained at a look, read on test now", _run_name(result))
        elif earlier is not None:
            source = run_in_words(str(result.reused_from), channel.study_dir)
            log.info("%s: taken over from %s", _run_name(result), source)
            score_untrained(result, model, config.measure.zero_cost, config, data, torch.device("cpu"))
        else:
            tell_outdated(channel, result)
            tracker = Tracker(config.tracker, folder, channel.study, _run_name(result), plain)  # type: ignore[arg-type]
            result.wandb_id = tracker.run_id
            _train_and_measure(config, model, data, device, record, tracker, channel, interrupted)
        values = _objectives(config, result)
        result.status, result.reason = "ok", None
        log.info("%s: %s", _run_name(result), _summary(result))
        return values
    except Pruned as stop:
        result.status, result.reason = "pruned", str(stop)
        raise
    except Infeasible as refusal:
        result.status, result.reason = "infeasible", mask(str(refusal))
        raise
    except InFlight as other:
        result.status, result.reason = "duplicate", str(other)
        raise
    except Stopped as stop:
        result.status, result.reason = "interrupted", mask(str(stop))
        raise
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit) or is_disk_full(error)
        result.status = "interrupted" if stopped else "failed"  # what is interrupted keeps its saved state
        result.reason = _reason(error, config)
        with contextlib.suppress(OSError):  # on a full disk the reason matters more than the trace
            write_atomic(folder / ERROR_FILE, mask(traceback.format_exc()))
        raise
    finally:
        off_work()
        record.close()  # first: what W&B does, or a Ctrl-C while it uploads, cannot take the result away
        if result.status not in ("interrupted", "duplicate"):
            discard(folder)
        drop_weights(config, channel, result)
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
        attempt=channel.attempt,
        run_dir=str(folder.relative_to(channel.study_dir)) if channel.study_dir else folder.name,
    )


def _state(result: TrialResult, architecture: Architecture, data: Data, channel: Channel) -> None:
    """Write the architecture down, and tell it to the study."""
    result.arm, result.arch_hash = architecture.label, architecture.hash
    result.sites = architecture.sites
    result.branches = sorted({name for _, block in architecture.blocks for name in dict(block)["branches"]})
    result.data_source = data.source
    result.classes, result.val_images = len(data.classes), len(data.val.labels)
    result.metrics["chance_top1"] = chance_top1(data.train.labels, data.val.labels)
    channel.note("arm", architecture.label)
    channel.note("arch_hash", architecture.hash)


def _made_by(result: TrialResult, recipe: str, content: Content) -> str:
    """Write down what the result is made by; return the trial's fingerprint."""
    assert result.arch_hash is not None
    result.code_digest, result.data_digest = content.code_digest, content.data
    result.provenance |= {"commit": content.commit, "commits": dict(content.commits), "code": dict(content.code)}
    return fingerprint_of(result.arch_hash, recipe, result.seed, result.epochs_planned, result.phase, content.digest)


def _train_and_measure(
    config: Config,
    model: torch.nn.Module,
    data: Data,
    device: torch.device,
    record: Record,
    tracker: Tracker,
    channel: Channel,
    interrupted: Path | None,
) -> None:
    result = record.result
    trainer = _train(config, model, data, device, record, tracker, channel, interrupted)
    network = trainer.evaluated
    if data.test is not None:
        test = Batches(data.test, data, config.data, training=False, device=device)
        score = evaluate(network, test, config.train.amp)
        result.metrics |= {"test_top1": score.top1, "test_loss": score.loss}
        result.test_images = len(data.test.labels)
    if device.type == "cuda":
        result.peak_memory_mb = torch.cuda.max_memory_allocated(device) / 2**20
    if result.sites:
        images, _ = next(iter(Batches(data.val, data, config.data, training=False, device=device)))
        result.doses = xvol.doses(network, images)
        result.dose = xvol.geometric_mean(result.doses.values())
    if channel.keeps_weights or is_kept(config.checkpoint, result.phase):
        save_checkpoint(network, record.folder)
    timed = result.latency_ms is not None  # before training, since the study asked: that figure is what it judged
    wanted = replace(config.measure, latency_repeats=0) if timed else config.measure
    costs = measure(network, (data.channels, data.image_size, data.image_size), wanted, config.seed)
    for name, value in costs.columns().items():
        setattr(result, name, value)
    result.latency_batch = config.measure.latency_batch


def _train(
    config: Config,
    model: torch.nn.Module,
    data: Data,
    device: torch.device,
    record: Record,
    tracker: Tracker,
    channel: Channel,
    interrupted: Path | None,
) -> Trainer:
    """Train to the end, from the state that an interrupted attempt has left where it did."""
    result, fingerprint = record.result, record.result.fingerprint
    assert fingerprint is not None
    score_untrained(result, model, config.measure.zero_cost, config, data, torch.device("cpu"))
    train = Batches(data.train, data, config.data, training=True, seed=config.seed, device=device)
    check_average(config.train, config.train.epochs * len(train))
    val = Batches(data.val, data, config.data, training=False, device=device)

    def anew() -> Trainer:
        return Trainer(copy.deepcopy(model).to(device), train, val, config.train, channel.stop_requested)

    made_by = on_record(result)
    trainer, past = begin(anew, record.folder, fingerprint, made_by, device) if interrupted else (anew(), None)
    result.train_seconds = 0.0
    if past is not None:
        result.resumed_from = _place(interrupted, channel)
        log.info("%s: goes on after %d of %d epochs", _run_name(result), len(past), config.train.epochs)
    history = past or []
    for row in history:
        _take_down(config, Epoch(**row), record, tracker, channel)
    saver = Saver(record.folder, fingerprint, made_by, config.train.state_every_seconds)
    try:
        for epoch in trainer.epochs():
            _take_down(config, epoch, record, tracker, channel)
            log.info("%s: %s", _run_name(result), _progress(epoch, config.train.epochs, channel))
            _obey_pruner(config, epoch, channel)
            history.append(vars(epoch))
            saver.after_epoch(trainer, history)
    except Halted as halt:
        where = f"epoch {halt.epoch}, step {halt.step}"
        if saver.save(trainer, history):
            raise Stopped(f"stopped; its state is saved at {where}") from None
        raise Stopped(f"stopped at {where}; its state could not be saved") from None
    return trainer


def _take_down(config: Config, epoch: Epoch, record: Record, tracker: Tracker, channel: Channel) -> None:
    """Write an epoch down, and report it to the study."""
    result = record.result
    record.epoch(vars(epoch))
    tracker.log(vars(epoch), step=epoch.epoch)
    scores = {name: getattr(epoch, name) for name in columns_on("val")}
    result.metrics |= scores
    result.train_loss = epoch.train_loss
    if result.train_loss_first is None:
        result.train_loss_first = epoch.train_loss
    result.train_seconds = (result.train_seconds or 0.0) + epoch.seconds
    if config.objectives[0] in scores:
        channel.report(epoch.epoch, scores[config.objectives[0]])


def _obey_pruner(config: Config, epoch: Epoch, channel: Channel) -> None:
    objective = config.objectives[0]
    if objective not in columns_on("val") or epoch.epoch == config.train.epochs:
        return  # known from the start, or at the end: there is nothing to save by stopping
    if channel.should_prune():
        value = getattr(epoch, objective)
        raise Pruned(f"pruned after epoch {epoch.epoch} of {config.train.epochs} at {objective} {value:.4g}")


def _objectives(config: Config, result: TrialResult) -> float | tuple[float, ...]:
    values = []
    for name in config.objectives:
        value = result.value(name)
        if value is None:
            hint = "the score is not finite for this network" if "." in name else "is measure.latency_repeats 0?"
            raise ValueError(f"objectives: {name} was not measured; {hint}")
        values.append(float(value))
    return values[0] if len(values) == 1 else tuple(values)


def _place(folder: Path | None, channel: Channel) -> str:
    """`folder` relative to the study's, or absolute where it lies elsewhere."""
    assert folder is not None
    root = Path(channel.study_dir).resolve() if channel.study_dir else None
    inside = root is not None and folder.resolve().is_relative_to(root)
    return folder.resolve().relative_to(root).as_posix() if inside and root else str(folder.resolve())


def _reason(error: BaseException, config: Config) -> str:
    text = f"{type(error).__name__}: {error}".strip().rstrip(":")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY.search(text):
        text = f"out of memory: {text.splitlines()[0]} ({_less_memory(config)})"
    if isinstance(error, KeyboardInterrupt):
        text = "interrupted"
    return mask(text)


def _less_memory(config: Config) -> str:
    """What to change where a trial did not fit; each of them for all arms alike."""
    batch = config.data.batch_size
    ways = [f"data.batch_size={batch // 2}"] if batch > 1 else []
    ways += [] if config.train.amp else ["train.amp=true"]
    advice = f"in every arm take {' or '.join(ways)}" if ways else "take a smaller network or data.image_size"
    return f"{advice}; train_memory_mb is what a step needs, and can be an objective or a constraint"


def _run_name(result: TrialResult) -> str:
    return f"{result.phase} {result.trial} [{result.arm}] seed {result.seed}"


def _progress(epoch: Epoch, epochs: int, channel: Channel) -> str:
    standing = channel.standing()
    line = f"epoch {epoch.epoch}/{epochs} val {epoch.val_top1:.2f}% loss {epoch.train_loss:.3f} ({epoch.seconds:.1f}s)"
    return f"{line} | {standing}" if standing else line


def _summary(result: TrialResult) -> str:
    """The line that ends a trial."""
    top1 = result.metrics
    test = f", test {top1['test_top1']:.2f}%" if "test_top1" in top1 else ""
    dose = "" if result.dose is None else f", dose {result.dose:.2g}"
    speed = "" if result.latency_ms is None else f", {result.latency_ms:.2f} ms (fused {result.latency_fused_ms:.2f})"
    return (
        f"val {top1['val_top1']:.2f}%{test}, {result.params} params, {(result.macs or 0) / 1e6:.2f} M MACs{speed}{dose}, "
        f"fused logits differ by {result.fuse_error:.1e}"
    )
