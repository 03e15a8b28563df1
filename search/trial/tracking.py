"""What a trial tells its tracker, and which tracker that is."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from search.channel import Channel
from search.ledger.files import write_whole
from search.ledger.metric import DETECTORS, columns_on, metric_named
from search.ledger.pictures import drawn, sheet
from search.ledger.result import TrialResult
from search.ledger.secrets import mask, masked_tree
from search.ledger.tracker import OF_WANDB, Picture, TrackedTrial, Tracker, TrackerConfig
from search.ledger.wandb_run import WandbRun
from search.tasks.base import ShowsPredictions
from search.trial.start import Root
from search.trial.untrained import Untrained

log = logging.getLogger("xvol")
STARTED = {"shared": "graft", "fork": "fork", "path": "path"}  # kinds of runs, by the start of the training
# columns of the result that are known before training, and what W&B's users group, filter and plot by
BUILT = ("study", "trial", "phase", "arm", "arch_hash", "is_baseline", "sites", "branches", "params", "macs", "attempt")
PICTURES = 8
PICTURES_FILE = "predictions.png"


def tracked(
    made: Untrained,
    channel: Channel,
    result: TrialResult,
    plain: Mapping[str, Any],
    folder: Path,
    root: Root | None,
    came_from: Path | None,
) -> Tracker:
    """The tracker of a trial that is about to be trained, begun.

    Args:
        result: with what is known before training.
        plain: the resolved config.
        came_from: folder of the attempt that is gone on from.
    """
    config = made.config
    if config.tracker.mode == "disabled":
        return Tracker()
    built = {name: getattr(result, name) for name in BUILT} | {"data_digest": result.data_digest}
    if root is not None:
        built["root"] = {"place": result.root, "seed": result.root_seed, "run": root.wandb_id}
    trial = TrackedTrial(
        folder=folder,
        study_dir=folder if channel.study_dir is None else Path(channel.study_dir),
        study=channel.study,
        name=f"{result.phase} {result.trial} [{result.arm}] seed {result.seed}",
        kind="root" if channel.is_root else STARTED.get(result.start, result.phase),
        config=masked_tree({**plain, **built}),
        command=result.overrides,
        commit=str(result.provenance.get("commit") or "").partition("+")[0] or None,  # without "+changes"
        curves={name: metric_named(name).higher_is_better for name in columns_on("val", config.task)},
        came_from=came_from,
        keeps_weights=channel.is_root or config.keeps_weights(result.phase),
        data=(config.data.name, str(result.data_digest)),
        root=None if root is None or root.wandb_id is None else (root.file, root.wandb_id),
    )
    return _tracker(config.tracker, trial)


def _tracker(config: TrackerConfig, trial: TrackedTrial) -> Tracker:
    if config.mode in OF_WANDB:
        return WandbRun(config, trial)
    return TensorBoard(trial)


@torch.no_grad()
def show(tracker: Tracker, made: Untrained, network: nn.Module, step: int, folder: Path) -> None:
    """Show the tracker what `network` makes of a few validation images, where it and the task can; the network's mode is restored.

    Objects in pictures are drawn into `folder` too, which shows more than a score does.
    """
    if not isinstance(made.task, ShowsPredictions) or not (tracker.shows_pictures or made.config.task in DETECTORS):
        return
    inputs, target = (each[:PICTURES] for each in next(iter(made.loaders.val)))
    was_training = network.training
    output = network.eval()(inputs)
    network.train(was_training)
    pictures = made.task.pictures(inputs, output, target, made.loaders.info)
    if made.config.task in DETECTORS:
        write_whole(folder / PICTURES_FILE, lambda path: sheet(pictures).save(path, "PNG"))
    tracker.show(pictures, step)


class TensorBoard(Tracker):
    """A trial's event file, below `tensorboard/` in its folder: `tensorboard --logdir runs/<study>` shows a study.

    Configs and results are its HParams, so that they can be compared as a table and in parallel coordinates.
    """

    shows_pictures = True

    def __init__(self, trial: TrackedTrial) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here: an extra, and 2 s

        self._trial = trial
        self._writer: Any = SummaryWriter(str(trial.folder / "tensorboard"))

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log one epoch."""

        def write() -> None:
            for name, value in values.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, step)

        self._guarded(write)

    def show(self, pictures: Sequence[Picture], step: int) -> None:
        """Log pictures of predictions, with their captions as text."""

        def write() -> None:
            for number, each in enumerate(pictures):
                self._writer.add_image(f"predictions/{number}", drawn(each), step, dataformats="HWC")
            lines = [f"{number}. {each.caption}" for number, each in enumerate(pictures)]
            self._writer.add_text("predictions", "\n".join(lines), step)

        self._guarded(write)

    def finish(self, result: TrialResult) -> None:
        """Write what the trial is and what it came to, and close the file."""

        def write() -> None:
            facts = {name: self._trial.config[name] for name in (*BUILT, "seed")}
            facts |= {"kind": self._trial.kind, "command": " ".join(self._trial.command), "status": result.status}
            plain = {name: value if isinstance(value, int | float) else str(value) for name, value in facts.items()}
            scores = {name: value for name, value in result.metrics.items() if value is not None}
            self._writer.add_hparams(plain, scores, run_name=".")

        self._guarded(write)
        if self._writer is not None:
            with contextlib.suppress(Exception):
                self._writer.close()
        self._writer = None

    def _guarded(self, action: Any) -> None:
        if self._writer is None:
            return
        try:
            action()
        except Exception as error:
            log.warning("TensorBoard failed, the ledger goes on without it: %s", mask(str(error)))
            self._writer = None
