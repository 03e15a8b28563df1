"""The columns of the tidy frame: one row a trial x seed, fixed names and dtypes. docs/tables.md says what they mean."""

from __future__ import annotations

from search.ledger.metric import SCORE_PREFIX, TASK_METRICS

__all__ = ["COLUMNS", "is_extra"]

OURS = [metric for metrics in TASK_METRICS.values() for metric in metrics]

COLUMNS: dict[str, str] = {
    "study": "string",
    "phase": "string",  # search | final | single
    "trial": "Int64",  # number inside the study and phase
    "status": "string",  # ok | pruned | failed | interrupted | infeasible | duplicate | unfinished (a folder without a result)
    "reason": "string",
    "arm": "string",
    "is_baseline": "boolean",
    "arch_hash": "string",
    "recipe_hash": "string",
    "fingerprint": "string",
    "code_digest": "string",
    "data_digest": "string",
    "reused_from": "string",  # relative to the folder that holds the studies
    "attempt": "Int64",
    "resumed_from": "string",  # relative to the study's folder
    "seed": "Int64",
    "backbone": "string",
    "sites": "string",  # names joined by "; "
    "branches": "string",  # names joined by "; "
    "params": "Int64",
    "params_fused": "Int64",
    "macs": "Int64",  # multiply-accumulates of one image
    "macs_fused": "Int64",
    "latency_ms": "Float64",  # one batch of latency_batch images
    "latency_fused_ms": "Float64",
    "latency_cpu_ms": "Float64",  # CPU time of the process in it; NA on an accelerator
    "latency_fused_cpu_ms": "Float64",
    "latency_exclusive": "boolean",  # measured in an exclusive slot; NA in results that are older than this column
    "latency_batch": "Int64",
    "fuse_error": "Float64",  # largest absolute difference of a logit
    **{metric.on(split).column: "Float64" for split in ("val", "test") for metric in OURS if split in metric.splits},
    "classes": "Int64",
    **{metric.chance: "Float64" for metric in OURS if metric.has_chance},  # percent, 0 to 100
    "val_images": "Int64",
    "test_images": "Int64",
    "train_loss_first": "Float64",  # nats
    "train_loss": "Float64",  # nats
    "dose": "Float64",  # ratio
    "epochs": "Int64",
    "epochs_planned": "Int64",
    "train_seconds": "Float64",
    "peak_memory_mb": "Float64",  # MiB
    "train_memory_mb": "Float64",  # MiB
    "data_source": "string",
    "run_dir": "string",  # relative to the study's folder
    "wandb_id": "string",
    "started_at": "string",  # ISO 8601
    "finished_at": "string",
    "overrides": "string",  # joined by "; "
    "provenance": "string",  # JSON
}
"""Name and pandas dtype of each column of `load_study`; what they mean is said in `TrialResult`.

After these stand Float64 columns of what some studies have: `zero_cost.<name>`, where untrained networks were scored, and the
metrics of installed packages."""


def is_extra(name: str) -> bool:
    """Whether a column beside `COLUMNS` is one of a score or of another's metric."""
    return name.startswith((SCORE_PREFIX, "val_", "test_", "chance_")) and name not in COLUMNS
