"""Weights & Biases as a mirror of the ledger: a run for each trial, grouped by study, finished in every path."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from search.allowed import check_choice
from search.ledger.result import TrialResult
from search.ledger.secrets import mask, masked_tree

__all__ = ["INIT_TIMEOUT", "MODES", "Tracker", "TrackerConfig", "check_tracker", "start_run"]

log = logging.getLogger(__name__)
MODES = ("offline", "online", "disabled")
INIT_TIMEOUT = 30.0  # seconds that a trial waits for a server
RETRY_SECONDS = 600.0  # so long a process asks no server that did not answer: its trials are logged offline meanwhile
_away_until = 0.0  # moment, by the monotonic clock, until which the server is taken to be away


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


class Tracker:
    """One trial's W&B run. A failure of W&B is logged once and never touches the trial.

    Args:
        config: where to log.
        folder: folder of the trial; the offline run lies below its `wandb/`.
        group: the study.
        name: the run's name.
        trial_config: the resolved config; secrets are masked before W&B sees it.
    """

    def __init__(
        self, config: TrackerConfig, folder: Path, group: str, name: str, trial_config: Mapping[str, Any]
    ) -> None:
        check_tracker(config)
        self._run: Any = None
        if config.mode == "disabled":
            return
        facts = (folder, group, name, masked_tree(dict(trial_config)))
        global _away_until
        if config.mode == "online" and time.monotonic() < _away_until:
            self._start_offline(config, facts)
            return
        try:
            self._run = start_run(config, *facts)
        except Exception as error:
            log.warning("W&B could not start: %s", mask(" ".join(str(error).split())))
            if config.mode == "online":
                _away_until = time.monotonic() + RETRY_SECONDS
                self._start_offline(config, facts)

    def _start_offline(self, config: TrackerConfig, facts: tuple[Path, str, str, dict[str, Any]]) -> None:
        """Keep the run on disk while the server cannot be reached: `wandb sync` uploads it later."""
        try:
            self._run = start_run(replace(config, mode="offline"), *facts)
            log.warning("this trial is logged offline; upload it later: wandb sync %s/wandb/offline-run-*", facts[0])
        except Exception as error:
            log.warning("W&B could not start offline either, the ledger goes on without it: %s", mask(str(error)))

    @property
    def run_id(self) -> str | None:
        """W&B's id of the run, None where there is none."""
        return None if self._run is None else str(self._run.id)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log one epoch."""
        self._guarded(lambda run: run.log(dict(values), step=step))

    def finish(self, result: TrialResult) -> None:
        """Write the summary and finish the run; its exit code is 0 for "ok" and "pruned"."""

        def close(run: Any) -> None:
            row = asdict(result)
            row.pop("provenance")
            row.pop("overrides")
            row |= row.pop("metrics")
            run.summary.update(masked_tree({name: value for name, value in row.items() if value is not None}))
            run.finish(exit_code=0 if result.status in ("ok", "pruned") else 1)

        self._guarded(close)
        self._run = None

    def _guarded(self, action: Any) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            log.warning("W&B failed, the ledger goes on without it: %s", mask(str(error)))
            run, self._run = self._run, None
            with contextlib.suppress(Exception):
                run.finish(exit_code=1)


def start_run(
    config: TrackerConfig,
    folder: Path,
    group: str,
    name: str,
    run_config: dict[str, Any],
    *,
    init_timeout: float = INIT_TIMEOUT,
    **more: Any,
) -> Any:
    """Start a run of W&B that leaves the process alone: nothing captured, nothing printed, no code saved.

    Args:
        config: where to log.
        folder: the run's files lie below its `wandb/`.
        group, name: of the run.
        run_config: config of the run, without secrets.
        init_timeout: seconds to wait for a server.
        more: further arguments of `wandb.init`.

    Raises:
        Exception: whatever W&B raises where it cannot start.
    """
    # W&B's reports on itself: where their server drops packets, each process would wait 11 s for it at its end, offline too.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    (folder / "wandb").mkdir(parents=True, exist_ok=True)  # else W&B falls back to a temporary folder
    settings = wandb.Settings(
        init_timeout=init_timeout,
        console="off",
        silent=True,
        x_disable_stats=True,
        x_disable_meta=True,
        save_code=False,
        disable_git=True,
    )
    return wandb.init(
        mode=config.mode,  # type: ignore[arg-type]
        project=config.project,
        entity=config.entity,
        group=group,
        name=name,
        tags=list(config.tags),
        dir=str(folder),
        config=run_config,
        settings=settings,
        reinit="finish_previous",
        **more,
    )
