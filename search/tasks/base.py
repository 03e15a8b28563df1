"""What a trial asks of its task, in the terms of `timm.task`, and the table of tasks. Importing it loads no torch.

An installed package adds a task with one line, an entry point of the group `xvol.tasks` that names its class, and declares its
metrics in the group `xvol.metrics` (see `search.ledger.metric`):

    [project.entry-points."xvol.tasks"]
    counting = "my_package.counting:Counting"

It is chosen by `task=counting`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from search.config import Config
from search.ledger.metric import Metric, metrics_of
from search.recipe import TrainConfig
from xvol.allowed import check_choice

if TYPE_CHECKING:
    import numpy as np
    import torch
    from timm.task import TrainingTask
    from torch import nn

    from search.config import Architecture
    from search.data.images import DataInfo
    from search.data.loaders import Loaders
    from search.ledger.tracker import Picture

ENTRY_POINTS = "xvol.tasks"
TASKS = {
    "classify": "search.tasks.classify:Classify",
    "detection": "search.tasks.detect:Detect",
    "instance_segmentation": "search.tasks.detect:Segment",
}


class Diverged(RuntimeError):
    """The loss or an output of the network is no longer finite."""


class Evaluator(Protocol):
    """Scores one pass over a split, as timm's `ClassificationEvaluator` does."""

    def update(self, output: Any, target: Any) -> None:
        """Take in the network's outputs for a batch. Raises Diverged where one is not finite."""
        ...

    def compute(self, distributed: bool = False) -> Mapping[str, float | None]:
        """The metrics over all batches by name, those of all ranks with `distributed`; None where there was nothing to score."""
        ...


@runtime_checkable
class WritesFiles(Evaluator, Protocol):
    """An evaluator that keeps more of a pass than its metrics."""

    def write(self, folder: Path, split: str) -> None:
        """Write it beside the result of the trial, whole or not at all; `split` is "val" or "test"."""
        ...


@runtime_checkable
class KeepsSamples(Evaluator, Protocol):
    """An evaluator that can say what the network put out for each image.

    Attributes:
        keep: whether it is asked to; set before the pass.
    """

    keep: bool

    def per_sample(self) -> dict[str, np.ndarray] | None:
        """Arrays of one row an image, in the order of the pass, for `search.ledger.samples`; None where it was not asked to."""
        ...


@runtime_checkable
class ShowsPredictions(Protocol):
    """A task that can show what a network makes of images; a tracker asks it for a few of the validation images."""

    def pictures(self, inputs: Any, output: Any, target: Any, info: DataInfo) -> list[Picture]:
        """A picture for each of a batch, with what is true of it and what the network says."""
        ...


@runtime_checkable
class MeasuresPart(Protocol):
    """A task of whose network not all costs the same for every input."""

    def measured(self, model: nn.Module, config: Config) -> nn.Module:
        """The part of it that is counted, fused and timed, around the same layers: from tensors (B, C, H, W) to tensors."""
        ...


@runtime_checkable
class TimesBody(Protocol):
    """What a task has measured, of which one part is timed by itself too."""

    @property
    def body_and_pyramid(self) -> nn.Module:
        """From the same tensors (B, C, H, W) to feature maps."""
        ...


class Task(Protocol):
    """What is learned, and what it is scored by; made once a trial, without arguments."""

    def data(
        self, config: Config, splits: Collection[str], device: torch.device, rank: int = 0, world: int = 1
    ) -> Loaders:
        """Loaders of train, val and, where `splits` has it, test; ValueError for what cannot be had."""
        ...

    def model(self, config: Config, info: DataInfo) -> tuple[nn.Module, Architecture]:
        """The untrained network on the CPU with its blocks, and it as a value; see `search.tasks.model.build`."""
        ...

    def training(self, model: nn.Module, recipe: TrainConfig) -> TrainingTask:
        """timm's training task around `model`: called with a batch it returns {"loss": ..., "output": ...}."""
        ...

    def evaluator(self, config: Config, device: torch.device) -> Evaluator:
        """A new evaluator of outputs on `device`, for the metrics that name none of their own."""
        ...

    def probe_input(self, info: DataInfo) -> tuple[int, int, int]:
        """(channels, height, width) of the input that the network is counted, fused and timed with."""
        ...


class Scores:
    """The evaluators of one pass over a split: the task's own, and those of metrics that packages have added to it.

    Args:
        task: the one that `config` names.
        split: "val" or "test".
        device: of the network's outputs.
    """

    def __init__(self, task: Task, config: Config, split: str, device: torch.device) -> None:
        name = config.task
        self._metrics: Sequence[Metric] = [metric for metric in metrics_of(name) if split in metric.splits]
        added = dict.fromkeys(metric.evaluator for metric in self._metrics if metric.evaluator)
        own = task.evaluator(config, device)
        self._evaluators: list[Evaluator] = [own, *(resolve_name(target)() for target in added)]
        self._name, self._split = name, split

    @property
    def makers(self) -> list[type]:
        """The classes of the evaluators."""
        return [type(evaluator) for evaluator in self._evaluators]

    def update(self, output: Any, target: Any) -> None:
        """Take in the network's outputs for a batch."""
        for evaluator in self._evaluators:
            evaluator.update(output, target)

    def write(self, folder: Path) -> None:
        """Let the evaluators that keep more of the pass than metrics write it to the trial's folder."""
        for evaluator in self._evaluators:
            if isinstance(evaluator, WritesFiles):
                evaluator.write(folder, self._split)

    def compute(self, distributed: bool = False) -> dict[str, float | None]:
        """The metrics by the ledger's columns, e.g. "val_top1".

        Raises:
            ValueError: a metric is declared that no evaluator computes.
        """
        found: dict[str, float | None] = {}
        for evaluator in self._evaluators:
            found |= evaluator.compute(distributed)
        missing = [metric.name for metric in self._metrics if metric.name not in found]
        if missing:
            raise ValueError(
                f"task={self._name}: its evaluators compute {', '.join(found)}, and not {', '.join(missing)}, which is declared"
            )
        return {metric.on(self._split).column: found[metric.name] for metric in self._metrics}


@cache  # looking through all installed packages takes milliseconds, and each trial asks several times
def _installed() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}


def task_names() -> tuple[str, ...]:
    """All tasks, those of installed packages last."""
    return tuple(dict.fromkeys([*TASKS, *_installed()]))


def check_task(name: str) -> None:
    """Raise ValueError where no task has that name, or it has no metric to be judged by."""
    check_choice("task", name, task_names())
    if not any("val" in metric.splits for metric in metrics_of(name)):
        raise ValueError(f"task={name}: no metric of its validation images is declared in the group xvol.metrics")


def task_named(name: str) -> Task:
    """The task of that name, which there is; none of an installed package takes the place of one of ours."""
    task: Task = resolve_name(TASKS.get(name) or _installed()[name])()
    return task
