"""Taking the result of an earlier trial that this one could only repeat."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.channel import Channel
from search.config import Config
from search.ledger.files import write_whole
from search.ledger.metric import SCORE_PREFIX, columns_on
from search.ledger.paths import run_in_words
from search.ledger.record import Record, read_history
from search.ledger.result import TrialResult, read_result
from search.trial.checkpoint import CHECKPOINT_FILE, is_kept
from search.trial.content import changes, on_record

__all__ = ["MACHINE_BOUND", "copy_figures", "link_weights", "take_over", "tell_outdated"]

log = logging.getLogger("xvol")
# of one measurement, so never mixed with those of another
LATENCY = (
    *("latency_ms", "latency_fused_ms", "latency_cpu_ms", "latency_fused_cpu_ms"),
    *("latency_exclusive", "latency_batch"),
)
MACHINE_BOUND = (*LATENCY, "train_memory_mb", "train_seconds")  # another machine, another figure
# what belongs to the trial that was asked for; all other columns are those of the trial that was trained
OWN = (
    *("study", "trial", "phase", "status", "reason", "arm", "is_baseline", "seed", "fingerprint", "reused_from"),
    *("recipe_hash", "data_source"),  # the same images may lie elsewhere
    *("attempt", "resumed_from", "run_dir", "wandb_id", "zero_cost", "started_at", "finished_at", "overrides"),
)


def take_over(source: str, record: Record, config: Config, channel: Channel) -> bool:
    """Copy the figures, the history and the kept weights of the trial at `source` into `record`.

    Args:
        source: path of the earlier trial's `result.json`.

    Returns:
        False where they cannot stand for this trial's; the log says why.
    """
    try:
        earlier = read_result(Path(source))
        keep = channel.keeps_weights or is_kept(config.checkpoint, record.result.phase)
        _refuse_unfit(earlier, Path(source).parent, record.result, config, keep)
        history = read_history(Path(source).parent)
        if len(history) != earlier.epochs:
            raise ValueError(f"its history holds {len(history)} of {earlier.epochs} epochs")
        if keep:
            link_weights(Path(source).parent, record.folder)
    except (ValueError, OSError) as error:
        log.warning("%s cannot stand for this trial (%s)", source, error)
        return False
    copy_figures(earlier, history, Path(source).parent, record, channel)
    return True


def copy_figures(
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


def link_weights(source: Path, target: Path) -> None:
    """Keep the weights in the folder `source` in the folder `target` too, without a second copy where that can be.

    Raises:
        OSError: there are none, or the disk is full.
    """
    weights = source / CHECKPOINT_FILE
    write_whole(target / CHECKPOINT_FILE, lambda temporary: _link(weights, temporary))


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
    scores = columns_on("val") + (columns_on("test") if result.phase == "final" else ())
    missing = [name for name in dict.fromkeys((*needed, *scores)) if earlier.value(name) is None]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    if keep and not (folder / CHECKPOINT_FILE).is_file():
        raise ValueError("its weights were not kept, and are asked for here")
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
