"""How a trial is tracked beside the ledger: what a config may say of it, what a tracker is told, and the one that tracks nothing.

`runs/` is the truth. A tracker mirrors it, and whatever fails in one never touches a trial. Another one is a subclass of `Tracker`
and a line in `search.trial.tracking`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.ledger.result import TrialResult
from xvol.allowed import check_choice

if TYPE_CHECKING:
    import numpy as np

OF_WANDB = ("offline", "online")
MODES = (*OF_WANDB, "disabled", "tensorboard")
LEAST_PATIENCE = 4.0  # seconds: a server that is well answers within two


@dataclass
class TrackerConfig:
    """Where trials are tracked. W&B reads its API key itself from WANDB_API_KEY or `wandb login`, never from here.

    Attributes:
        mode: Weights & Biases "offline" (default; `wandb sync` uploads later) or "online", "tensorboard", or "disabled".
        project: W&B project.
        entity: user or team; null is the account's default.
        tags: tags of every run.
        artifacts: log the weights that a trial keeps as artifacts; online with their lineage, the data and the root.
        patience: seconds that a server which does not answer may cost a study in all, at the starts and ends of its runs.
    """

    mode: str = "offline"
    project: str = "xvol"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)
    artifacts: bool = True
    patience: float = 30.0


def check_tracker(config: TrackerConfig) -> None:
    """Raise ValueError where the tracker's mode is unknown or not installed, or W&B would not take its project."""
    check_choice("tracker.mode", config.mode, MODES)
    if config.mode == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise ValueError("tracker.mode=tensorboard: it is not installed; pip install 'xvol[tensorboard]'")
    if not config.project or set(config.project) & set("/\\#?%:") or len(config.project) > 128:
        raise ValueError(f"tracker.project={config.project}: give 1 to 128 characters, none of them / \\ # ? % :")
    if not config.patience >= LEAST_PATIENCE:
        raise ValueError(f"tracker.patience={config.patience:g}: give at least {LEAST_PATIENCE:g} seconds")


@dataclass(frozen=True, kw_only=True)
class TrackedTrial:
    """What a tracker is told of a trial that begins. Secrets are masked.

    Attributes:
        folder: of the trial; study_dir: of its study, or of the trial outside of one.
        study, name: of the study, and of the trial in words.
        kind: "search", "final", "single"; "root", "graft", "fork" or "path", which go before these.
        config: the resolved config, and beside it what was built: see `search.trial.tracking`.
        command: overrides that train this trial alone.
        commit: of the code, where it is known.
        curves: whether higher is better, by the columns that each epoch has.
        came_from: folder of the interrupted attempt that this one goes on from.
        keeps_weights: whether weights that lie in the folder at its end stay there.
        data: name and digest of the images.
        root: file of weights that the training started from, and the id of the run that made them, where it has one.
    """

    folder: Path
    study_dir: Path
    study: str
    name: str
    kind: str
    config: Mapping[str, Any]
    command: Sequence[str] = ()
    commit: str | None = None
    curves: Mapping[str, bool] = field(default_factory=dict)
    came_from: Path | None = None
    keeps_weights: bool = False
    data: tuple[str, str] | None = None
    root: tuple[Path, str] | None = None


@dataclass(frozen=True)
class Marked:
    """An object in a picture.

    Attributes:
        box: x1, y1, x2, y2 in pixels.
        label: number of its class, from 1.
        score: of a prediction, 0 to 1; None of what is true.
        mask: bool of (height, width).
    """

    box: tuple[float, float, float, float]
    label: int
    score: float | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Picture:
    """An image, uint8 of (height, width, 3 or 1), and what is said of it.

    Attributes:
        objects: those that are in it, and those that a network sees, by "truth" and "prediction".
        classes: names by the numbers of their classes.
    """

    pixels: np.ndarray
    caption: str
    objects: Mapping[str, Sequence[Marked]] = field(default_factory=dict)
    classes: Mapping[int, str] = field(default_factory=dict)


class Tracker:
    """One trial as a tracker shows it. This base class tracks nothing; no method of another one raises.

    Attributes:
        run_id: W&B's id of the run; None elsewhere.
        shows_pictures: whether `show` is of any use.
    """

    run_id: str | None = None
    shows_pictures: bool = False

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Take in one epoch."""

    def show(self, pictures: Sequence[Picture], step: int) -> None:
        """Take in pictures of predictions."""

    def finish(self, result: TrialResult) -> None:
        """Take in what the trial came to, however it ended, and close; a second time does no harm."""
