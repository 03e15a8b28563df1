"""A trial in Weights & Biases: one run however often it is taken up again, finished in every path."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from search.ledger.result import TrialResult
from search.ledger.secrets import mask, masked_tree
from search.ledger.study_files import CHECKPOINT_FILE, TRUNK_FILE
from search.ledger.tracker import Picture, TrackedTrial, Tracker, TrackerConfig
from search.ledger.wandb_server import Away, Server

log = logging.getLogger(__name__)
LONGEST_TAG = 64  # characters, which W&B allows


class WandbRun(Tracker):
    """A trial's run. A failure of W&B is logged once and never touches the trial.

    An attempt that goes on from an interrupted one goes on with its run. What that wrote offline and nobody has uploaded is
    removed then: all its epochs are logged again, and the file of a process that was killed lacks its end, so that `wandb sync`
    would take neither.
    """

    shows_pictures = True

    def __init__(self, config: TrackerConfig, trial: TrackedTrial) -> None:
        self._config, self._trial = config, trial
        self._server = Server(trial.study_dir, config.patience)
        earlier = None if trial.came_from is None else run_id_in(trial.came_from)
        more: dict[str, Any] = {} if earlier is None else {"id": earlier, "resume": "allow"}
        tags = dict.fromkeys(tag[:LONGEST_TAG] for tag in (*config.tags, *_tags(trial)))
        self._config = replace(config, tags=list(tags))
        self._run, self._online = self._started(more)
        self._first = getattr(self._run, "starting_step", 0) if self._online else 0
        self._has_curves = False
        if self._run is not None and trial.came_from is not None and earlier is not None:
            _forget_offline(trial.came_from, earlier, Path(self._run.dir).parent)
        self._guarded(self._define_curves)

    def _define_curves(self, run: Any) -> None:
        """Let W&B draw each metric over epochs, and keep its best and its last value."""
        for column, higher in self._trial.curves.items():
            run.define_metric(column, step_metric="epoch", summary=f"{'max' if higher else 'min'},last")

    def _started(self, more: Mapping[str, Any]) -> tuple[Any, bool]:
        """The run, and whether it is online; None where W&B cannot start at all."""
        trial = self._trial
        facts = {"system": True, "job_type": trial.kind, "command": trial.command, "commit": trial.commit, **more}
        try:
            return start_anywhere(
                self._config, self._server, trial.folder, trial.study, trial.name, dict(trial.config), **facts
            )
        except Exception as error:
            log.warning("W&B could not start offline: %s", mask(" ".join(str(error).split())))
            return None, False

    @property
    def run_id(self) -> str | None:  # type: ignore[override]
        """W&B's id of the run, None where there is none."""
        return None if self._run is None else str(self._run.id)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log one epoch; one that the server has already from an earlier attempt is passed over."""
        self._has_curves = self._has_curves or not set(self._trial.curves).isdisjoint(values)
        if step >= self._first:
            self._guarded(lambda run: run.log(dict(values), step=step))

    def show(self, pictures: Sequence[Picture], step: int) -> None:
        """Log pictures of predictions."""

        def send(run: Any) -> None:
            images = [loaded().Image(each.pixels, caption=each.caption) for each in pictures]
            run.log({"predictions": images}, step=max(step, self._first))

        self._guarded(send)

    def finish(self, result: TrialResult) -> None:
        """Write the summary, log the weights that stay, and finish the run; its exit code is 0 for "ok" and "pruned"."""

        def close(run: Any) -> None:
            row = asdict(result)
            row.pop("provenance")
            row.pop("overrides")
            curves = self._trial.curves if self._has_curves else ()  # W&B has their best and last
            row |= {name: value for name, value in row.pop("metrics").items() if name not in curves}
            run.summary.update(masked_tree({name: value for name, value in row.items() if value is not None}))
            if self._config.artifacts:
                self._log_artifacts(run, result.status == "ok" and self._trial.keeps_weights)
            run.finish(exit_code=0 if result.status in ("ok", "pruned") else 1)

        self._guarded(close)
        self._run = None

    def _log_artifacts(self, run: Any, with_weights: bool) -> None:
        """The weights of the trial, and online what they came from: offline W&B can say what a run made, but not what it used."""
        if with_weights:
            for file in (self._trial.folder / name for name in (CHECKPOINT_FILE, TRUNK_FILE)):
                if file.is_file():
                    run.log_artifact(_weights(file, str(run.id)))
        if self._online:
            used = [_data(*self._trial.data)] if self._trial.data else []
            used += [_weights(*self._trial.root)] if self._trial.root and self._trial.root[0].is_file() else []
            _within(self._server, lambda: [run.use_artifact(each) for each in used])

    def _guarded(self, action: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        begun = time.monotonic()
        try:
            action(self._run)
        except Exception as error:
            log.warning("W&B failed, the ledger goes on without it: %s", mask(str(error)))
            if isinstance(error, TimeoutError):
                self._server.waited(time.monotonic() - begun)
            run, self._run = self._run, None
            with contextlib.suppress(Exception):
                run.finish(exit_code=1)


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

    Args: as of `start_run`.

    Raises:
        Exception: whatever W&B raises where it cannot start offline.
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
        seconds: to wait for a server, at the start and at the end.
        system: log the machine, and its load while the run goes on.
        command, commit: what W&B shows as the run's own.
        more: further arguments of `wandb.init`.

    Raises:
        Exception: whatever W&B raises where it cannot start.
    """
    wandb = loaded()
    (folder / "wandb").mkdir(parents=True, exist_ok=True)  # else W&B falls back to a temporary folder
    waits = (
        {} if seconds is None else {"init_timeout": seconds, "finish_timeout": seconds, "finish_timeout_raises": True}
    )
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


def run_id_in(folder: Path) -> str | None:
    """Id of the latest run below a folder, from the name that W&B gives its folder; None where there is none."""
    runs = sorted(folder.glob("wandb/*run-*-*"), key=lambda path: path.name.partition("run-")[2])
    return runs[-1].name.rpartition("-")[2] if runs else None


def _within(server: Server, action: Callable[[], object]) -> None:
    """Run what waits for the server's answer as long as that takes, for a part of what the server may cost; log what goes wrong."""
    wrong: list[Exception] = []

    def run() -> None:
        try:
            action()
        except Exception as error:
            wrong.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    begun = time.monotonic()
    thread.join(server.seconds_left() / 2)
    if thread.is_alive():
        server.waited(time.monotonic() - begun)
        wrong.append(TimeoutError("no answer"))
    if wrong:
        log.warning("W&B did not take what the run was made from: %s", mask(str(wrong[0])))


def _forget_offline(folder: Path, run_id: str, but: Path) -> None:
    """Remove what a run has written offline below `folder` and nobody has uploaded, but for what it writes now."""
    for path in folder.glob(f"wandb/offline-run-*-{run_id}"):
        if path.resolve() != but.resolve() and not any(path.glob("*.wandb.synced")):
            shutil.rmtree(path, ignore_errors=True)


def _tags(trial: TrackedTrial) -> list[str]:
    """What runs are told apart by at one look."""
    name = [trial.data[0]] if trial.data else []
    return [trial.kind, *name, *(["baseline"] if trial.config.get("is_baseline") else [])]


def _weights(file: Path, run_id: str) -> Any:
    """A file of weights as an artifact; the same in the run that made it and in one that starts from it, so that W&B keeps one.

    W&B reads it where it lies, and copies nothing.
    """
    artifact = loaded().Artifact(f"{file.stem}-{run_id}", type="model")
    artifact.add_file(str(file), name=file.name, policy="immutable", skip_cache=True)
    return artifact


def _data(name: str, digest: str) -> Any:
    """A data set as an artifact: a reference to what its digest says it is, never the pictures."""
    artifact = loaded().Artifact(f"data-{name}", type="dataset", metadata={"digest": digest})
    artifact.add_reference(f"xvol://{name}/{digest}", name="images", checksum=False)
    return artifact
