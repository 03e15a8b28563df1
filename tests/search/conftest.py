"""What tests of the harness share: composing configurations as the application does, and reading offline W&B runs."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from search.config import config_folder, register

Compose = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def composed() -> Iterator[Compose]:
    """Compose the application's config from overrides; `with_hydra=True` keeps the `hydra` node."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):

        def compose_with(*overrides: str, with_hydra: bool = False) -> DictConfig:
            return compose("config", list(overrides), return_hydra_config=with_hydra)

        yield compose_with
    GlobalHydra.instance().clear()


@dataclass
class WandbRun:
    """What an offline run's file holds."""

    facts: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    job_type: str = ""
    artifacts: dict[str, tuple[str, set[str]]] = field(default_factory=dict)  # type and files, by name
    exit_code: int | None = None
    curves: dict[str, tuple[str, set[str]]] = field(default_factory=dict)  # x axis and kinds of summary, by name
    command: list[str] = field(default_factory=list)
    commit: str = ""


@pytest.fixture
def read_wandb() -> Callable[[Path], WandbRun]:
    """Read the only offline run below a trial's folder."""

    def read(folder: Path) -> WandbRun:
        (file,) = folder.glob("wandb/offline-run-*/*.wandb")
        end = time.monotonic() + 60
        while (run := _read_run(file)).exit_code is None and time.monotonic() < end:
            time.sleep(0.05)  # `finish` returns; W&B's own process writes the file's end a moment later
        return run

    return read


def _read_run(file: Path) -> WandbRun:
    from wandb.proto.wandb_internal_pb2 import Record  # here: a second for the few tests that read a run

    def values(items: Any) -> dict[str, Any]:
        return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

    found = WandbRun()
    for chunk in _records(file.read_bytes()):
        record = Record()
        record.ParseFromString(chunk)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found.facts = {
                "id": run.run_id,
                "name": run.display_name,
                "project": run.project,
                "group": run.run_group,
                "tags": list(run.tags),
            }
            found.config |= values(run.config.update)
            found.job_type, found.commit = run.job_type, run.git.commit
        elif kind == "artifact":
            files = {entry.path for entry in record.artifact.manifest.contents}
            found.artifacts[record.artifact.name] = (record.artifact.type, files)
        elif kind == "metric":
            kinds = {field.name for field, value in record.metric.summary.ListFields() if value is True}
            found.curves[record.metric.name] = (record.metric.step_metric, kinds)
        elif kind == "environment" and record.environment.program:
            found.command = [record.environment.program, *record.environment.args]
        elif kind == "config":
            found.config |= values(record.config.update)
        elif kind == "summary":
            found.summary |= values(record.summary.update)
        elif kind == "history":
            found.history.append(values(record.history.item))
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _records(data: bytes) -> Iterator[bytes]:
    """The records of W&B's file: LevelDB's log format behind a header of 7 bytes."""
    assert data[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        position += 7
        if kind == 0 or position + size > len(data):  # padding, or a record that is still being written
            return
        parts += data[position : position + size]
        position += size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""
