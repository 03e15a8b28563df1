"""Starting a run of Weights & Biases that leaves the process alone, and offline where the server does not answer."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from search.ledger.secrets import mask, masked_tree
from search.ledger.tracker import TrackerConfig
from search.ledger.wandb_server import Away, Server

log = logging.getLogger(__name__)
END_SHARE = 1 / 3  # of the patience, that a run waits for the server at its end


def start_anywhere(
    config: TrackerConfig,
    server: Server,
    folder: Path,
    group: str,
    name: str,
    run_config: Mapping[str, Any],
    **more: Any,
) -> tuple[Any, bool]:
    """Start a run online where that is asked for and the server answers, else offline; return it, and whether it is online.

    The rest is as of `start_run`; it raises what W&B raises where it cannot start offline.
    """
    if config.mode == "online":
        try:
            with server.asked() as seconds:
                return start_run(
                    config, folder, group, name, masked_tree(dict(run_config)), seconds=seconds, **more
                ), True
        except Exception as error:
            level = logging.DEBUG if isinstance(error, Away) else logging.WARNING  # told once, where it was waited for
            why = mask(" ".join(str(error).split()))
            if "id" in more and not isinstance(error, Away):
                loaded().teardown()  # W&B's process takes the id for one in use
            log.log(
                level, "W&B could not start online (%s): logged offline; upload it: wandb sync %s/wandb", why, folder
            )
    offline = replace(config, mode="offline")
    return start_run(offline, folder, group, name, masked_tree(dict(run_config)), **more), False


def start_run(
    config: TrackerConfig,
    folder: Path,
    group: str,
    name: str,
    run_config: dict[str, Any],
    *,
    seconds: float | None = None,
    system: bool = False,
    command: Sequence[str] = (),
    commit: str | None = None,
    **more: Any,
) -> Any:
    """Start a run of W&B that leaves the process alone: nothing captured, nothing printed, no code saved.

    Nor is the list of installed packages, which takes more time than all the rest: the ledger has the versions that matter, in
    `provenance`. The commit is the ledger's as well, so that W&B runs no git, and saves no patch and no address of a remote.

    Args:
        config: where to log.
        folder: the run's files lie below its `wandb/`.
        group, name: of the run.
        run_config: config of the run, without secrets.
        seconds: to wait for a server at the start; at the end it is a share of the patience.
        system: log the machine, and its load while the run goes on.
        command, commit: what W&B shows as the run's own.
        more: further arguments of `wandb.init`.

    Raises:
        Exception: whatever W&B raises where it cannot start.
    """
    wandb = loaded()
    (folder / "wandb").mkdir(parents=True, exist_ok=True)  # else W&B falls back to a temporary folder
    waits: dict[str, Any] = {}
    if seconds is not None:
        waits = {"init_timeout": seconds, "finish_timeout": END_SHARE * config.patience, "finish_timeout_raises": True}
    settings = wandb.Settings(
        console="off",
        silent=True,
        x_disable_stats=not system,
        x_disable_meta=not system,
        x_save_requirements=False,
        save_code=False,
        disable_git=True,
        git_commit=commit,
        program="-m search",
        **waits,
    )
    with _arguments([mask(word) for word in command]):
        return wandb.init(
            mode=config.mode,
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


def loaded() -> Any:
    """The module wandb."""
    # W&B's reports on itself: where their server drops packets, each process would wait 11 s for it at its end, offline too.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")  # what matters is told by those who ask
    import wandb  # here: a second that studies and tables without it do not pay

    return wandb


@contextlib.contextmanager
def _arguments(words: Sequence[str]) -> Iterator[None]:
    """Let `sys.argv` be what W&B is to show: a worker's own is of no use to anybody, and may hold what nobody should read."""
    before, sys.argv = sys.argv, [sys.argv[0] if sys.argv else "", *words]
    try:
        yield
    finally:
        sys.argv = before
