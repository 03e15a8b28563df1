"""Runs that other code logged: to Weights & Biases, from its server (its public API) or the files of offline runs; or to MLflow.

W&B has no public reader of those files, `wandb sync` alone reads them. They are LevelDB's log format around the messages of
`wandb.proto`: this module alone knows so.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from search.ledger.record import flat

HEADER, BLOCK = b":W&B", 32768  # the header is of 7 bytes, and so is that of each chunk: checksum, length, kind
WHOLE, FIRST, LAST = 1, 2, 4
STATISTICS = ("max", "min", "best", "last")  # what `define_metric(summary=...)` keeps in the place of the last value


@dataclass(kw_only=True)
class Run:
    """One run: where it is, how it ended ("finished", "failed", "crashed" or "running"), its config by dotted keys, and one metric: each
    reading in order, and what its summary says. `seconds` is its runtime, `epochs` the last value it logged as "epoch".
    """

    name: str
    state: str = "running"
    config: dict[str, Any] = field(default_factory=dict)
    readings: list[float] = field(default_factory=list)
    summary: Any = None
    seconds: float | None = None
    epochs: float | None = None


def offline_runs(folder: Path, metric: str) -> list[Run]:
    """Read every `.wandb` file below a folder; ValueError where there is none, or one is none of W&B's."""
    files = sorted(folder.rglob("*.wandb"))
    if not files:
        raise ValueError(f"{folder} holds no .wandb file; give a folder of offline runs, e.g. the script's wandb/")
    return [_offline_run(file, metric) for file in files]


def online_runs(path: str, metric: str) -> list[Run]:
    """Read the runs of "entity/project" from the server that W&B is logged in to; ValueError where it does not give them."""
    import wandb  # here: a second that tables without it do not pay

    try:
        return [_online_run(run, path, metric) for run in wandb.Api().runs(path)]
    except (wandb.errors.Error, ValueError) as error:
        raise ValueError(f"wandb:{path} cannot be read: {error}") from None


def mlflow_runs(place: str, metric: str) -> list[Run]:
    """Read runs by MLflow's client from "URI", or "URI#experiment"; ValueError where it is not installed, or does not give them."""
    try:
        client_of, failure = resolve_name("mlflow:MlflowClient"), resolve_name("mlflow.exceptions:MlflowException")
    except ImportError:
        raise ValueError(
            "runs of MLflow are read by its own client, which is not installed: pip install mlflow-skinny"
        ) from None
    uri, _, wanted = place.partition("#")
    try:
        client = client_of(tracking_uri=uri)
        there = {each.name: each.experiment_id for each in client.search_experiments()}
        if wanted and wanted not in there:
            raise ValueError(f"mlflow:{uri} has no experiment {wanted!r}; it has {', '.join(there) or 'none'}")
        chosen = [there[wanted]] if wanted else [*there.values()]
        runs = page = client.search_runs(chosen)
        while page.token:
            page = client.search_runs(chosen, page_token=page.token)
            runs = [*runs, *page]
        return [_mlflow_run(run, client, metric) for run in runs]
    except failure as error:
        raise ValueError(f"mlflow:{uri} cannot be read: {error}") from None


def _mlflow_run(run: Any, client: Any, metric: str) -> Run:
    history = client.get_metric_history(run.info.run_id, metric) if metric in run.data.metrics else []
    ended = run.info.end_time
    return Run(
        name=run.info.run_id,
        state={"KILLED": "crashed", "SCHEDULED": "running"}.get(run.info.status, run.info.status.lower()),
        config=flat({name: _number(text) for name, text in run.data.params.items()}),
        readings=[each.value for each in sorted(history, key=lambda each: (each.step, each.timestamp))],
        summary=run.data.metrics.get(metric),
        seconds=None if ended is None else (ended - run.info.start_time) / 1000,
        epochs=run.data.metrics.get("epoch"),
    )


def _number(text: str) -> Any:
    """A parameter's value: MLflow keeps each as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _online_run(run: Any, path: str, metric: str) -> Run:
    found = Run(name=f"{path}/{run.id}", state=str(run.state), config=_config(run.config))
    _take_summary(found, flat(dict(run.summary)), metric)
    for row in run.scan_history():
        _take_history(found, row, metric)
    return found


def _offline_run(file: Path, metric: str) -> Run:
    # here, as above; protobuf makes the name at import
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    run, config, summary = Run(name=file.stem), dict[str, Any](), dict[str, Any]()
    for chunk in _records(file):
        record = Record()
        record.ParseFromString(chunk)
        kind = record.WhichOneof("record_type")
        if kind in ("run", "config"):
            config |= _values((record.run.config if kind == "run" else record.config).update)
            run.name = record.run.run_id or run.name
        elif kind == "summary":
            summary |= _values(record.summary.update)
        elif kind == "history":
            _take_history(run, _values(record.history.item), metric)
        elif kind == "exit":
            run.state = "failed" if record.exit.exit_code else "finished"
    run.config = _config(config)
    _take_summary(run, flat(summary), metric)
    return run


def _config(config: Mapping[str, Any]) -> dict[str, Any]:
    return flat({name: value for name, value in config.items() if not name.startswith("_")})


def _take_summary(run: Run, summary: Mapping[str, Any], metric: str) -> None:
    names = [metric, *(f"{metric}.{each}" for each in STATISTICS)]
    run.summary = next((summary[name] for name in names if name in summary), run.readings[-1] if run.readings else None)
    run.seconds = summary.get("_wandb.runtime", summary.get("_runtime", run.seconds))


def _take_history(run: Run, row: Mapping[str, Any], metric: str) -> None:
    if isinstance(row.get(metric), int | float):
        run.readings.append(float(row[metric]))
    run.seconds, run.epochs = row.get("_runtime", run.seconds), row.get("epoch", run.epochs)


def _values(items: Iterable[Any]) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(file: Path) -> Iterator[bytes]:
    """Yield the records of a file, up to where a run that was killed cut it."""
    data, position, parts = file.read_bytes(), 7, b""
    if data[:4] != HEADER:
        raise ValueError(f"{file} is no file of W&B's: it does not begin with {HEADER.decode()}")
    while position + 7 <= len(data):
        if (left := BLOCK - position % BLOCK) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        chunk = data[position + 7 : position + 7 + length]
        if not kind or len(chunk) < length:
            return
        position += 7 + length
        parts = chunk if kind in (WHOLE, FIRST) else parts + chunk
        if kind in (WHOLE, LAST):
            yield parts
