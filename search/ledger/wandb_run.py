"""Weights & Biases as a mirror of the ledger: a run for each trial, finished in every path."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from search.ledger.metric import CLASSIFY, columns_on
from search.ledger.result import TrialResult
from search.ledger.secrets import mask, masked_tree
from search.ledger.tracker import TrackerConfig, check_tracker

log = logging.getLogger(__name__)
INIT_TIMEOUT = 30.0  # seconds that a trial waits for a server
RETRY_SECONDS = 600.0  # so long a process asks no server that did not answer: its trials are logged offline meanwhile
_away_until = 0.0  # moment, by the monotonic clock, until which the server is taken to be away


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
        global _away_until
        modes = {"disabled": (), "offline": ("offline",), "online": ("online", "offline")}[config.mode]
        if time.monotonic() < _away_until:
            modes = modes[-1:]
        for mode in modes:
            try:
                self._run = start_run(replace(config, mode=mode), folder, group, name, masked_tree(dict(trial_config)))
                break
            except Exception as error:
                log.warning("W&B could not start %s: %s", mode, mask(" ".join(str(error).split())))
                if mode == "online":
                    _away_until = time.monotonic() + RETRY_SECONDS
        if self._run is not None and mode != config.mode:
            log.warning("this trial is logged offline; upload it later: wandb sync %s/wandb/offline-run-*", folder)
        for column in columns_on("val", str(trial_config.get("task", CLASSIFY))):
            self._guarded(lambda run, column=column: run.define_metric(column, step_metric="epoch"))

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

    Nor is the list of installed packages, which takes six times as long as all the rest: the ledger has the versions that
    matter, in `provenance`.

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
    import wandb  # here: a second that studies and tables without it do not pay

    (folder / "wandb").mkdir(parents=True, exist_ok=True)  # else W&B falls back to a temporary folder
    settings = wandb.Settings(
        init_timeout=init_timeout,
        console="off",
        silent=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
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
