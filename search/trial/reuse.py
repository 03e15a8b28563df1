"""Taking the result of an earlier trial that this one could only repeat, or the network of one that was trained for a look."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from search.channel import Channel
from search.config import Config
from search.ledger.files import is_disk_full, write_whole
from search.ledger.matches import FILES, PREDICTIONS
from search.ledger.metric import SCORE_PREFIX, columns_on
from search.ledger.record import Record, read_history
from search.ledger.result import RESULT_FILE, TrialResult, read_result
from search.ledger.samples import SAMPLES_FILE, read_samples
from search.ledger.study_files import TRUNK_FILE, run_in_words
from search.trial.content import changes, on_record
from search.trial.state import CHECKPOINT_FILE, keep_samples, load_checkpoint, read_test
from search.trial.untrained import Untrained

log = logging.getLogger("xvol")
# of one measurement, so never mixed with those of another
LATENCY = (
    *("latency_ms", "latency_fused_ms", "latency_cpu_ms", "latency_fused_cpu_ms"),
    *("latency_body_ms", "latency_body_fused_ms", "latency_exclusive", "latency_batch"),
)
MACHINE_BOUND = (*LATENCY, "train_memory_mb", "train_seconds")  # another machine, another figure
# what belongs to the trial that was asked for; all other columns are those of the trial that was trained
OWN = (
    *("study", "trial", "phase", "status", "reason", "arm", "is_baseline", "seed", "fingerprint", "reused_from"),
    *("recipe_hash", "data_source", "root"),  # the same images may lie elsewhere
    *("attempt", "resumed_from", "run_dir", "wandb_id", "zero_cost", "started_at", "finished_at", "overrides"),
)
MADE_BY = ("arch_hash", "recipe_hash", "seed", "epochs_planned", "code_digest", "data_digest")


class LostAtLook(RuntimeError):
    """The network was not trained to its end at the looks, so there is nothing to read; the message says why."""


def take_over(source: str, record: Record, config: Config, channel: Channel) -> bool:
    """Copy the figures, the history and the kept weights of the trial at `source` into `record`.

    Args:
        source: path of the earlier trial's `result.json`.

    Returns:
        False where they cannot stand for this trial's; the log says why.
    """
    try:
        earlier = read_result(Path(source))
        keep = channel.keeps_weights or config.keeps_weights(record.result.phase)
        _refuse_unfit(earlier, Path(source).parent, record.result, config, keep)
        history = read_history(Path(source).parent)
        if len(history) != earlier.epochs:
            raise ValueError(f"its history holds {len(history)} of {earlier.epochs} epochs")
        if keep:
            _link_kept(CHECKPOINT_FILE, Path(source).parent, record.folder)
        if config.start.stop_epoch is not None:
            _link_kept(TRUNK_FILE, Path(source).parent, record.folder)
        if config.data.probe_size:
            _link_kept(SAMPLES_FILE, Path(source).parent, record.folder)
        link_predictions(Path(source).parent, record.folder)
    except (ValueError, OSError) as error:
        log.warning("%s cannot stand for this trial (%s)", source, error)
        return False
    _copy_figures(earlier, history, Path(source).parent, record, channel)
    return True


def read_on_test(made: Untrained, device: torch.device, record: Record, channel: Channel) -> bool:
    """Take over what the trial in `channel.trained_in` came to, and read its weights on the test data.

    Returns:
        False where that trial is another one or its weights are gone; the log says why, and this one is to be trained.

    Raises:
        LostAtLook: that trial failed.
    """
    assert channel.trained_in is not None
    assert made.loaders.test is not None
    folder = Path(channel.trained_in)
    try:
        earlier = read_result(folder / RESULT_FILE)
        if earlier.status != "ok":
            raise LostAtLook(f"not trained at the looks: {earlier.status} ({earlier.reason})")
        _refuse_other(earlier, record.result)
        history = read_history(folder)
        network = copy.deepcopy(made.model)
        network.load_state_dict(load_checkpoint(folder / CHECKPOINT_FILE))
        if made.config.keeps_weights(record.result.phase):
            _link_kept(CHECKPOINT_FILE, folder, record.folder)
    except LostAtLook:
        raise
    except (ValueError, OSError, RuntimeError) as error:  # load_state_dict says RuntimeError
        if is_disk_full(error):
            raise
        reason = str(error).splitlines()[0]
        log.warning("%s: its network cannot be read on test (%s): it is trained again", folder, reason)
        return False
    _copy_figures(earlier, history, folder, record, channel)
    link_predictions(folder, record.folder)
    record.result.metrics |= read_test(network.to(device), made, device, record.folder)
    record.result.test_images = made.loaders.test.samples
    keep_samples(made, network, device, record.folder)
    return True


def drop_weights(config: Config, channel: Channel, result: TrialResult) -> None:
    """Remove the weights that the study kept until the test data were read, where the config keeps none."""
    if channel.trained_in is not None and result.status == "ok" and not config.keeps_weights(result.phase):
        (Path(channel.trained_in) / CHECKPOINT_FILE).unlink(missing_ok=True)


def _copy_figures(
    earlier: TrialResult, history: Sequence[Mapping[str, Any]], folder: Path, record: Record, channel: Channel
) -> None:
    """Write history and figures of the trial in `folder` to `record`, but what was measured here, or is the trial's own."""
    for row in history:
        record.epoch(row)
    result = record.result
    measured_here = {name for name in MACHINE_BOUND if getattr(result, name) is not None}
    if measured_here.intersection(LATENCY):
        measured_here.update(LATENCY)
    for name, value in vars(earlier).items():
        if name not in OWN and name not in measured_here:
            setattr(result, name, value)
    result.zero_cost = earlier.zero_cost | result.zero_cost
    result.reused_from = earlier.reused_from or _relative(folder, channel)


def tell_outdated(channel: Channel, result: TrialResult) -> None:
    """Say in the log what has changed since an earlier trial of the same settings, where there is one."""
    source = channel.outdated()
    if source is None:
        return
    with contextlib.suppress(ValueError):  # it is gone, or torn
        differs = "; ".join(changes(on_record(read_result(Path(source))), on_record(result)))
        earlier = run_in_words(_relative(Path(source).parent, channel), channel.study_dir)
        log.info("%s cannot stand for this trial (%s)", earlier, differs)


def link_predictions(source: Path, target: Path) -> None:
    """Keep what the trial in `source` has found in pictures in `target` too, where it has; OSError where the disk is full."""
    for name in (*FILES.values(), *PREDICTIONS.values()):
        if (source / name).is_file():
            _link_kept(name, source, target)


def _link_kept(name: str, source: Path, target: Path) -> None:
    """Keep a file in the folder `source` in the folder `target` too, without a second copy where that can be.

    Raises:
        OSError: there is none, or the disk is full.
    """
    write_whole(target / name, lambda temporary: _link(source / name, temporary))


def _refuse_unfit(earlier: TrialResult, folder: Path, result: TrialResult, config: Config, keep: bool) -> None:
    """Raise ValueError where the earlier trial does not hold what this one is asked for."""
    if earlier.status != "ok":
        raise ValueError(f"its status is {earlier.status}")
    if earlier.fingerprint != result.fingerprint:
        differs = changes(on_record(earlier), on_record(result))
        raise ValueError("; ".join(differs) or f"its fingerprint is {earlier.fingerprint}, not {result.fingerprint}")
    needed = [  # scores of the untrained network cost little: they are taken afresh
        name for name in config.objectives if not name.startswith(SCORE_PREFIX) and result.value(name) is None
    ]
    scores = columns_on("val", config.task) + (columns_on("test", config.task) if result.phase == "final" else ())
    # an average precision of no objects is None, and was reached
    names = [name for name in dict.fromkeys((*needed, *scores)) if name not in earlier.metrics]
    missing = [name for name in names if earlier.value(name) is None]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    if keep and not (folder / CHECKPOINT_FILE).is_file():
        raise ValueError("its weights were not kept, and are asked for here")
    wanted = config.data.probe_size
    if wanted and int((read_samples(folder).part != "test").sum()) != wanted:
        raise ValueError(f"it kept another probe set than data.probe_size={wanted}")
    _refuse_other_machine(earlier, result, [name for name in needed if name in MACHINE_BOUND])


def _refuse_other_machine(earlier: TrialResult, result: TrialResult, bound: Sequence[str]) -> None:
    for fact in ("processor", "device"):
        there, here = earlier.provenance.get(fact), result.provenance.get(fact)
        if bound and there != here:
            raise ValueError(f"{', '.join(bound)} was measured on another {fact}: {there}, here {here}")


def _link(source: Path, target: Path) -> Any:
    try:
        os.link(source, target)  # one copy on the disk; neither file is ever written in place
    except OSError:
        shutil.copyfile(source, target)


def _relative(folder: Path, channel: Channel) -> str:
    """`folder` relative to the folder that holds the studies, or absolute where it lies elsewhere."""
    if channel.study_dir is not None:
        runs = Path(channel.study_dir).resolve().parent
        if folder.resolve().is_relative_to(runs):
            return folder.resolve().relative_to(runs).as_posix()
    return str(folder.resolve())


def _refuse_other(earlier: TrialResult, result: TrialResult) -> None:
    for name in MADE_BY:
        there, here = getattr(earlier, name), getattr(result, name)
        if there != here:
            raise ValueError(f"its {name} is {there}, here it is {here}")
