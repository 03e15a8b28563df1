"""One trial as one row: the columns of the ledger, and how `result.json` is written and read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from search.ledger.files import refuse_newer, write_atomic
from search.ledger.metric import CLASSIFY, SCORE_PREFIX

RESULT_FILE = "result.json"
SCHEMA = 2
OF_SCHEMA_1 = ("val_top1", "val_loss", "test_top1", "test_loss", "chance_top1")  # its metrics had fields of their own
CHECKSUM = "checksum"
_MEND = "xvol-check says what can be done"

Phase = Literal["single", "search", "final"]
Status = Literal["ok", "pruned", "failed", "interrupted", "infeasible", "duplicate"]


@dataclass(kw_only=True)
class TrialResult:
    """What one trial came to. A value that was not reached or not measured is None, never a made-up number.

    Tables have these columns in this order, see `search.report.reading.rows`.

    Attributes:
        study: name of the study, or "single" for a run outside of one.
        trial: number of the trial inside its study and phase, from 0.
        phase: "search" chose on validation data; "final" is the re-evaluation on fresh seeds, the only phase that
            reads test data; "single" is one architecture trained by hand.
        status: "ok"; "pruned" (stopped by the study's pruner); "failed" (`reason` says why); "interrupted";
            "infeasible" (refused by a constraint of the study before it was trained; `reason` says which); "duplicate"
            (another worker is training the same: the trial waits, to take its result over).
        task: what was learned: whose metrics these are.
        arm: readable name of the architecture, e.g. "stage3: conv+pssa(embed_ratio=0.25)"; "plain" where nothing
            is placed.
        is_baseline: True in the arm that differences are taken against.
        arch_hash: ten hexadecimal digits; two configs that build the same network have the same one.
        recipe_hash: ten hexadecimal digits over everything that is held equal between arms (data, training, measuring).
        fingerprint: ten hexadecimal digits over architecture, recipe, seed, epochs and whether test data were read, "-",
            and ten over code, data and versions: of two trials with the same one, the second could only repeat the first.
        code_digest: ten hexadecimal digits over the source that built and trained this network; provenance["code"] has
            them for each part. data_digest: the same over the images and labels as they were read.
        reused_from: folder of the earlier trial that the figures were taken from, relative to the folder that holds
            the studies where it lies in there, else absolute; None where this trial was trained.
        attempt: how often the trial was begun, this time included.
        resumed_from: folder of the interrupted attempt whose saved state was continued, relative to the study's folder
            where it lies in there; None where this attempt began anew.
        seed: seeds initialisation, data order and augmentation; arms with equal seeds are paired.
        start: "scratch"; "shared" or "fork", see `search.starting.StartConfig`.
        root: folder of the trial, relative to the study's folder where it lies in there, or file, that the training started
            from; None from scratch. root_seed: the seed of that trial. Trials with equal roots belong together.
        sites: names of the modules that were replaced.
        branches: names of the branches summed at those sites.
        params, params_fused: number of parameters as trained, and after `fuse()`.
        macs, macs_fused: multiply-accumulates of one image.
        latency_ms, latency_fused_ms: milliseconds for one batch of `latency_batch` images, median.
        latency_cpu_ms, latency_fused_cpu_ms: CPU time of the process in these; None where an accelerator does the work.
        latency_body_ms, latency_body_fused_ms: the same of a detector's body and pyramid alone; None of other networks.
        latency_exclusive: measured while no other worker of this machine (or accelerator) was at work, and nothing else
            took the processor away; None where it is not known, as in results older than this column.
        fuse_error: largest absolute difference of a logit between the trained and the fused form.
        metrics: what the last epoch came to, by column: `<split>_<name>` of each of the task's metrics, see
            `search.ledger.metric`, those of test only in phase "final"; and `chance_<name>`, what a network that learned
            nothing reaches on the validation images. None where the value is not finite.
        classes: number of classes. val_images, test_images: images behind the metrics of these splits.
        train_loss_first, train_loss: mean loss over the first and the last finished epoch, in nats.
        dose: how much the added branches give beside the convolution, at the end of training: the geometric mean of
            `doses`, which holds by site what `xvol.doses` says of the first batch of validation images. None, and in
            `doses` too, where a block has no convolution or nothing beside it.
        epochs: epochs that were finished. `epochs_planned`: epochs that were asked for.
        train_seconds: wall time inside the training loop, evaluation included, waiting for measurements of others not.
        peak_memory_mb: largest memory torch held on the accelerator, MiB; None on a CPU.
        train_memory_mb: MiB that one training step keeps, where it was asked for: see `search/trial/measure.py`.
        zero_cost: scores of the untrained network by name, where `measure.zero_cost` asks for them; None where a score
            is not finite.
        data_source: where the images came from, in words.
        run_dir: folder of the trial, relative to the study's folder.
        wandb_id: id of the W&B run; None with the tracker disabled.
    """

    study: str
    phase: Phase
    trial: int
    status: Status
    reason: str | None = None
    task: str = CLASSIFY
    arm: str | None = None
    is_baseline: bool = False
    arch_hash: str | None = None
    recipe_hash: str | None = None
    fingerprint: str | None = None
    code_digest: str | None = None
    data_digest: str | None = None
    reused_from: str | None = None
    attempt: int = 1
    resumed_from: str | None = None
    seed: int
    start: str = "scratch"
    root: str | None = None
    root_seed: int | None = None
    backbone: str | None = None
    sites: list[str] = field(default_factory=list)
    branches: list[str] = field(default_factory=list)
    params: int | None = None
    params_fused: int | None = None
    macs: int | None = None
    macs_fused: int | None = None
    latency_ms: float | None = None
    latency_fused_ms: float | None = None
    latency_cpu_ms: float | None = None
    latency_fused_cpu_ms: float | None = None
    latency_body_ms: float | None = None
    latency_body_fused_ms: float | None = None
    latency_exclusive: bool | None = None
    latency_batch: int | None = None
    fuse_error: float | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    classes: int | None = None
    val_images: int | None = None
    test_images: int | None = None
    train_loss_first: float | None = None
    train_loss: float | None = None
    dose: float | None = None
    doses: dict[str, float | None] = field(default_factory=dict)
    epochs: int = 0
    epochs_planned: int = 0
    train_seconds: float | None = None
    peak_memory_mb: float | None = None
    train_memory_mb: float | None = None
    zero_cost: dict[str, float | None] = field(default_factory=dict)
    data_source: str | None = None
    run_dir: str | None = None
    wandb_id: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    overrides: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """The value of a column by its name, `zero_cost.NAME` for a score; None where it was not reached or measured."""
        if name.startswith(SCORE_PREFIX):
            return self.zero_cost.get(name.removeprefix(SCORE_PREFIX))
        return self.metrics.get(name, getattr(self, name, None))

    @property
    def has_test_scores(self) -> bool:
        """Whether its network was read on the test data."""
        return any(name.startswith("test_") and value is not None for name, value in self.metrics.items())


def write_result(folder: Path, result: TrialResult) -> Path:
    """Write `folder/result.json` atomically, with a checksum of its content, and return its path."""
    row = {"schema": SCHEMA, **asdict(result)}
    for values in (row, row["metrics"], row["zero_cost"], row["doses"]):
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[name] = None  # JSON has no NaN; `status` and `reason` say what happened
    path = folder / RESULT_FILE
    row[CHECKSUM] = checksum_of(json.loads(json.dumps(row, allow_nan=False)))  # of what a reader will see
    write_atomic(path, json.dumps(row, indent=1) + "\n")
    return path


def read_result(path: Path) -> TrialResult:
    """Read one `result.json`. One without a checksum was written before there were any, and is taken as it is.

    ValueError where it is no JSON object of a known schema, lacks a column, or does not fit its checksum; NewerVersion of a later schema.
    """
    row = _row_of(path)
    known = {column.name for column in fields(TrialResult)}
    try:
        return TrialResult(**{name: value for name, value in row.items() if name in known})
    except TypeError as error:
        raise ValueError(f"{path}: incomplete result ({error})") from None


def sound_result(path: Path) -> TrialResult | None:
    """The result at `path`; None where there is none, or a torn or foreign one."""
    try:
        return read_result(path)
    except ValueError:
        return None


def has_checksum(path: Path) -> bool:
    """Whether the result at `path`, which can be read, guards its content."""
    return CHECKSUM in _row_of(path)


def checksum_of(row: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits over all of a result but its checksum, however the file is laid out."""
    content = {name: value for name, value in row.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def _row_of(path: Path) -> dict[str, Any]:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a readable result ({error}); {_MEND}") from None
    schema = row.get("schema") if isinstance(row, dict) else type(row).__name__
    refuse_newer(path, "schema", schema, SCHEMA)
    if not isinstance(row, dict) or schema not in (1, SCHEMA):
        raise ValueError(f"{path}: expected a result of schema 1 or {SCHEMA}, found {schema}")
    if CHECKSUM in row and row[CHECKSUM] != checksum_of(row):
        raise ValueError(f"{path}: edited or damaged after it was written (its checksum does not fit); {_MEND}")
    return _lifted(row) if schema == 1 else row


def _lifted(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of schema 1 as one of schema 2."""
    kept = {name: value for name, value in row.items() if name not in OF_SCHEMA_1}
    return kept | {"metrics": {name: row[name] for name in OF_SCHEMA_1 if row.get(name) is not None}}
