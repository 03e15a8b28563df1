"""A trial in Weights & Biases: one run however often it is taken up again, finished in every path."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import PIL.Image

from search.ledger.pictures import overlays
from search.ledger.result import TrialResult
from search.ledger.secrets import mask, masked_tree
from search.ledger.study_files import CHECKPOINT_FILE, TRUNK_FILE
from search.ledger.tracker import Picture, TrackedTrial, Tracker, TrackerConfig
from search.ledger.wandb_server import Server
from search.ledger.wandb_start import loaded, start_anywhere

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
            forget_offline(trial.came_from, earlier, Path(self._run.dir).parent)
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
            # as files: W&B's own folder for pictures is removed by each forked worker that ends
            with tempfile.TemporaryDirectory() as folder:
                images = []
                for number, each in enumerate(pictures):
                    file = Path(folder) / f"{number}.png"
                    PIL.Image.fromarray(each.pixels.squeeze()).save(file)
                    images.append(loaded().Image(str(file), caption=each.caption, **overlays(each)))
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


def forget_offline(folder: Path, run_id: str, but: Path) -> None:
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
