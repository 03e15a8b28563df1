"""How a trial and a study are tracked: what a config may say of it. `runs/` is the truth, a tracker mirrors it."""

from __future__ import annotations

from dataclasses import dataclass, field

from xvol.allowed import check_choice

MODES = ("offline", "online", "disabled")


@dataclass
class TrackerConfig:
    """Weights & Biases. The API key is read by W&B itself from WANDB_API_KEY or `wandb login`, never from here.

    Attributes:
        mode: "offline" (default; `wandb sync` uploads later), "online" or "disabled".
        project: W&B project.
        entity: user or team; null is the account's default.
        tags: tags of every run.
    """

    mode: str = "offline"
    project: str = "xvol"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)


def check_tracker(config: TrackerConfig) -> None:
    """Raise ValueError where the tracker's mode is unknown, or W&B would not take its project."""
    check_choice("tracker.mode", config.mode, MODES)
    if not config.project or set(config.project) & set("/\\#?%:") or len(config.project) > 128:
        raise ValueError(f"tracker.project={config.project}: give 1 to 128 characters, none of them / \\ # ? % :")
