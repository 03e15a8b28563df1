"""Weights & Biases as a mirror of the ledger: a run for each trial, finished in every path, and one for a study's table.

A table is sent by a process of its own that is ended at a time limit, so that neither a server that answers slowly, nor one
that stops answering in the middle, nor a crash of W&B's can hold up or break whoever made the table.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import json
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from search.ledger.metric import CLASSIFY, columns_on
from search.ledger.result import TrialResult
from search.ledger.secrets import mask, masked_tree
from xvol.allowed import check_choice

log = logging.getLogger(__name__)
MODES = ("offline", "online", "disabled")
INIT_TIMEOUT = 30.0  # seconds that a trial waits for a server
RETRY_SECONDS = 600.0  # so long a process asks no server that did not answer: its trials are logged offline meanwhile
ARTIFACT_TYPE = "ablation-table"
SEND_SECONDS = 2 * INIT_TIMEOUT  # for the start, which has its own limit, the rows and the files together
TYPES = {"string": str, "Float64": float, "Int64": int, "boolean": bool}
KILL_SECONDS = 5.0  # until what a killed process has written can be read
LONGEST_REASON = 300  # letters of a failure's message
LONGEST_NAME = 100  # of an artifact; W&B allows 128
_START = (
    "import gc; gc.disable(); import json, sys; job = json.load(sys.stdin); sys.path[:] = job['path']; "
    "from search.ledger.tracker import child; child(job)"
)
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


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of one table.

    Attributes:
        columns: name and dtype of each column: "string", "Float64", "Int64" or "boolean".
        rows: the values, None where there is none.
    """

    columns: Mapping[str, str]
    rows: Sequence[Sequence[Any]] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class StudyTable:
    """What is sent.

    Attributes:
        study: name of the study, the group of its runs.
        name: name of the table, the stem of its files: "ablation", or that of a spec.
        identity: what tells this study from another one of its name, and stays as it is while the study goes on.
        folder: folder of the study; an offline run lies below its `wandb/`.
        tables: the tables to log, by name.
        files: the files of the artifact.
        config: config of the run: what the table is of.
        summary: what is said of it.
    """

    study: str
    name: str
    identity: str
    folder: Path
    tables: Mapping[str, Rows]
    files: Sequence[Path]
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """Where the table is: "online" at `where` (an address), or "offline" at `where` (a folder for `wandb sync`)."""

    run_id: str
    mode: str
    where: str


def run_id_of(table: StudyTable) -> str:
    """Id of the table's run: the same whenever the same study's table of that name is sent."""
    return f"table-{digest(table.study, table.identity, table.name)}"


def artifact_name(table: StudyTable) -> str:
    """Name of the artifact, of letters, digits, `.`, `_` and `-`; a digest stands for what W&B does not allow."""
    name = f"{table.study}-{table.name}"
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:LONGEST_NAME]
    return clean if clean == name else f"{clean}-{digest(name)[:6]}"


def digest(*parts: str) -> str:
    """Ten hexadecimal digits over some texts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]


def send_table(config: TrackerConfig, table: StudyTable, limit: float = SEND_SECONDS) -> Sent | None:
    """Send a table; whatever goes wrong is logged once, as a warning, and raises nothing.

    The run has the same id each time, so that a table made again takes the place of the old one: online the run is
    resumed, logs the new rows, and the artifact gets a version where a file has changed; offline the run that was written
    before, if it has not been synced, is replaced. A server that cannot be reached leaves an offline run.

    Args:
        config: where to log. W&B reads its API key itself.
        table: what is sent.
        limit: seconds after which it is given up.

    Returns:
        Where the table is; None where W&B is disabled, or failed.

    Raises:
        ValueError: the mode is unknown.
    """
    check_tracker(config)
    if config.mode == "disabled":
        return None
    try:
        return attempt(config, table, limit)
    except Exception as error:
        why = mask(str(error))
    if config.mode == "offline":
        log.warning("W&B: the table was not logged: %s. Its files are in %s", why, table.folder / "tables")
        return None
    try:
        sent = attempt(replace(config, mode="offline"), table, limit)
    except Exception as error:
        log.warning("W&B: the table was logged neither online (%s) nor offline (%s)", why, mask(str(error)))
        return None
    log.warning(
        "W&B: the table could not be sent (%s); it is logged offline, upload it later: wandb sync %s", why, sent.where
    )
    return sent


def attempt(config: TrackerConfig, table: StudyTable, limit: float) -> Sent:
    """Send a table by a process of its own."""
    run_id = run_id_of(table)
    staging = table.folder / "wandb" / f"staging-{run_id}" / uuid.uuid4().hex[:8]
    hidden = {"config": masked_tree(dict(table.config)), "summary": masked_tree(dict(table.summary))}
    job = {"path": sys.path, "tracker": asdict(config), "limit": limit, "table": asdict(table) | hidden}
    # Offline, W&B keeps a copy of an artifact's files for `wandb sync`: with the study, unless the user has a place for it.
    environment = {"WANDB_DATA_DIR": str(staging), **os.environ}
    for name in ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_SWEEP_ID"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-c", _START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # a Ctrl-C at the terminal is for the study; and W&B's own processes end with it
    )
    late = ""
    try:
        out, errors = process.communicate(json.dumps(job, allow_nan=False, default=str).encode(), timeout=limit)
    except subprocess.TimeoutExpired:
        late = f"no end after {limit:.0f} s"
        end(process)
        out, errors = process.communicate(timeout=KILL_SECONDS)  # what it had said by then
    finally:
        end(process)
    answer = answer_of(out)
    if answer is None or "error" in answer:
        said = errors.decode(errors="replace").strip().splitlines()
        last = said[-1] if said else f"exit status {process.returncode}"
        why = (answer or {}).get("error") or late or last
        raise RuntimeError(" ".join(why.split())[:LONGEST_REASON])
    _tidy_up(table.folder / "wandb", run_id, config.mode, Path(answer["folder"]), staging)
    return Sent(run_id=run_id, mode=config.mode, where=answer["url"] if config.mode == "online" else answer["folder"])


def end(process: subprocess.Popen[bytes]) -> None:
    """End the process and what it started, if it is still there; W&B's own process ends when it sees that."""
    if process.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answer_of(output: bytes) -> dict[str, Any] | None:
    """Read the last line of the process's output; None where it wrote none."""
    try:
        answer = json.loads(output.decode(errors="replace").strip().splitlines()[-1])
    except (IndexError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def _tidy_up(folder: Path, run_id: str, mode: str, latest: Path, staging: Path) -> None:
    """Remove what an offline run that was never uploaded has left of an earlier state of the same table."""
    old = [path for path in folder.glob(f"offline-run-*-{run_id}") if path.resolve() != latest.resolve()]
    old += [path for path in staging.parent.glob("*") if mode == "online" or path != staging]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        staging.parent.rmdir()  # where it is empty


def child(job: Mapping[str, Any]) -> None:
    """Write the run, and say where it is: the whole life of the process that `attempt` starts."""
    try:
        answer = write_run(job)
    except Exception as error:
        answer = {"error": mask(f"{type(error).__name__}: {error}")}
    print(json.dumps(answer), flush=True)
    gc.freeze()  # the process ends: what it has loaded is not looked through once more


def write_run(job: Mapping[str, Any]) -> dict[str, str]:
    """Start the run, log the tables and the artifact, finish."""
    import wandb  # here: only the process that sends a table needs it

    config, sent = TrackerConfig(**job["tracker"]), StudyTable(**job["table"])
    online = config.mode == "online"
    run = start_run(
        config,
        Path(sent.folder),
        sent.study,
        f"{sent.study}-table" if sent.name == "ablation" else f"{sent.study}-table-{sent.name}",
        dict(sent.config),
        init_timeout=min(INIT_TIMEOUT, job["limit"]),
        id=run_id_of(sent),
        job_type="table",
        resume="allow" if online else None,  # offline there is nothing to resume, and W&B says so on stderr
    )
    tables = {}
    shown = functools.cache(mask)  # the trials of a study repeat most of their texts
    for name, rows in job["table"]["tables"].items():
        types = [TYPES[dtype] for dtype in rows["columns"].values()]
        table = wandb.Table(columns=list(rows["columns"]), data=[], dtype=types, optional=True)
        # Not through the constructor, which checks each cell: 3 s of 10,000 trials, whose columns have their types already.
        table.data.extend([shown(value) if isinstance(value, str) else value for value in row] for row in rows["rows"])
        tables[name] = table
    run.log(tables)
    artifact = wandb.Artifact(artifact_name(sent), type=ARTIFACT_TYPE, metadata=dict(sent.config))
    for path in sent.files:
        artifact.add_file(str(path), name=Path(path).name, skip_cache=True)
    logged = run.log_artifact(artifact)
    if online:
        logged.wait(timeout=math.ceil(job["limit"]))  # else a server that refuses it would go unnoticed
    run.summary.update(dict(sent.summary))
    answer = {"folder": str(Path(run.dir).parent), "url": str(run.url or "")}
    run.finish()
    return answer
