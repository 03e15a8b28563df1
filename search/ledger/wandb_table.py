"""A study's table in Weights & Biases: a run and an artifact.

It is sent by a process of its own that is ended at a time limit, so that neither a server that answers slowly, nor one
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
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from search.ledger.secrets import mask, masked_tree
from search.ledger.tracker import TrackerConfig, check_tracker
from search.ledger.wandb_start import loaded, start_run

log = logging.getLogger(__name__)
ARTIFACT_TYPE = "ablation-table"
PAGE = "report.html"  # shown in the run as well
SEND_SECONDS = 60.0  # for the start, which has its own limit, the rows and the files together
TYPES = {"string": str, "Float64": float, "Int64": int, "boolean": bool}
KILL_SECONDS = 5.0  # until what a killed process has written can be read
LONGEST_REASON = 300  # letters of a failure's message
LONGEST_NAME = 100  # of an artifact; W&B allows 128
_START = (
    "import gc; gc.disable(); import json, sys; job = json.load(sys.stdin); sys.path[:] = job['path']; "
    "from search.ledger.wandb_table import child; child(job)"
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
    staging = staging_of(table.folder, run_id)
    job = {"path": sys.path, "tracker": asdict(config), "limit": limit, "table": plain(table)}
    process = started(_START, staging)
    late = ""
    try:
        out, errors = process.communicate(as_line(job), timeout=limit)
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
    tidy_up(table.folder / "wandb", run_id, config.mode, Path(answer["folder"]), staging)
    return Sent(run_id=run_id, mode=config.mode, where=answer["url"] if config.mode == "online" else answer["folder"])


def staging_of(folder: Path, run_id: str) -> Path:
    """Where W&B keeps copies of an artifact's files for `wandb sync`: with the study, unless the user has a place for it."""
    return folder / "wandb" / f"staging-{run_id}" / uuid.uuid4().hex[:8]


def plain(table: StudyTable) -> dict[str, Any]:
    """A table as plain values, secrets masked."""
    hidden = {"config": masked_tree(dict(table.config)), "summary": masked_tree(dict(table.summary))}
    return asdict(table) | hidden


def as_line(job: Mapping[str, Any]) -> bytes:
    """What is said to the process, as a line."""
    return json.dumps(job, allow_nan=False, default=str).encode() + b"\n"


def started(code: str, staging: Path) -> subprocess.Popen[bytes]:
    """A process of Python's that runs `code`, and talks by its standard streams."""
    environment = {"WANDB_DATA_DIR": str(staging), **os.environ}
    for name in ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_SWEEP_ID"):
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # a Ctrl-C at the terminal is for the study; and W&B's own processes end with it
    )


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


def tidy_up(folder: Path, run_id: str, mode: str, latest: Path, staging: Path) -> None:
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
    config, sent = TrackerConfig(**job["tracker"]), StudyTable(**job["table"])
    online = config.mode == "online"
    run = start_run(
        config,
        Path(sent.folder),
        sent.study,
        f"{sent.study}-table" if sent.name == "ablation" else f"{sent.study}-table-{sent.name}",
        dict(sent.config),
        seconds=job["limit"] if online else None,
        id=run_id_of(sent),
        job_type="table",
        resume="allow" if online else None,  # offline there is nothing to resume, and W&B says so on stderr
    )
    log_table(run, job["table"], wait=job["limit"] if online else None)
    answer = where_is(run)
    run.finish()
    return answer


def log_table(run: Any, job: Mapping[str, Any], wait: float | None) -> None:
    """Log the tables, the page and the artifact of a `StudyTable` as plain values; `wait` seconds until a server has the artifact."""
    wandb, sent = loaded(), StudyTable(**job)
    logged: dict[str, Any] = {}
    shown = functools.cache(mask)  # the trials of a study repeat most of their texts
    for name, rows in job["tables"].items():
        types = [TYPES[dtype] for dtype in rows["columns"].values()]
        table = wandb.Table(columns=list(rows["columns"]), data=[], dtype=types, optional=True)
        # Not through the constructor, which checks each cell: 3 s of 10,000 trials, whose columns have their types already.
        table.data.extend([shown(value) if isinstance(value, str) else value for value in row] for row in rows["rows"])
        logged[name] = table
    artifact = wandb.Artifact(artifact_name(sent), type=ARTIFACT_TYPE, metadata=dict(sent.config))
    for path in map(Path, sent.files):
        artifact.add_file(str(path), name=path.name, skip_cache=True)
        if path.name == PAGE:
            logged["report"] = wandb.Html(path.read_text(encoding="utf-8"), inject=False)
    run.log(logged)
    done = run.log_artifact(artifact)
    if wait is not None:
        done.wait(timeout=math.ceil(wait))  # else a server that refuses it would go unnoticed
    run.summary.update(dict(sent.summary))


def where_is(run: Any) -> dict[str, str]:
    """What the process says of its run."""
    return {"folder": str(Path(run.dir).parent), "url": str(run.url or "")}
