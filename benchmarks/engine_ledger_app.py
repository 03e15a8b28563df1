"""The no-op application of benchmarks/engine.py that asks its study and keeps a ledger, as a real trial does; ours alone."""

from __future__ import annotations

import time
from pathlib import Path

import hydra
from engine_app import value_of, write_trace
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from search.channel import current
from search.ledger.result import TrialResult, write_result


@hydra.main(version_base=None, config_path=None, config_name="engine_app")
def main(config: DictConfig) -> float:
    """Ask to be admitted, tell an epoch, write a result, and return the value."""
    began, cpu, channel = time.monotonic(), time.process_time(), current()
    value, fingerprint = value_of(config), f"{config.lr} {config.drop} {config.depth} {config.act}"
    channel.note("arch_hash", fingerprint)
    if channel.admit(fingerprint, {}) is None:
        channel.report(1, value)
        channel.should_prune()
        channel.standing()
        row = TrialResult(study=channel.study, trial=channel.number, phase=channel.phase, status="ok", seed=0)
        row.fingerprint, row.metrics = fingerprint, {"val_top1": value}
        write_result(Path(HydraConfig.get().runtime.output_dir), row)
    write_trace(config, began, cpu)
    return value


if __name__ == "__main__":
    main()
