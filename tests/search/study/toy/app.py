"""A Hydra application without torch, to be run under the sweeper: the objective is a parabola with faults on demand."""

import errno
import math
import os
import signal
import time
import zipfile
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from search.channel import Pruned, Stopped, current
from search.ledger.record import Record
from search.ledger.result import TrialResult, read_result


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config: DictConfig) -> float | tuple[float, ...]:
    channel = current()
    channel.note("arch_hash", f"x={config.x}")
    if channel.trained_in is not None:
        looked_at = Path(channel.trained_in, "result.json")
        if not looked_at.exists() or (value := read_result(looked_at).metrics.get("val_top1")) is None:
            raise RuntimeError("not trained at the looks")
        write(config, value, reused_from=channel.trained_in)
        return value
    if config.admit:
        earlier = channel.admit(fingerprint(config), {"params": config.x})
        if earlier is not None:
            result = read_result(Path(earlier))
            write(config, result.metrics.get("val_top1") or 0.0, reused_from=str(earlier))
            return result.metrics.get("val_top1") or 0.0
    with Path(config.trace).open("a") as trace:
        trace.write(f"{channel.phase} {channel.number} {config.x} {config.seed} {os.getpid()}\n")
    for _ in range(round(config.seconds / 0.02)):
        if channel.stop_requested() and config.stops:
            raise Stopped("stopped; its state is saved")
        time.sleep(0.02)
    while config.fault == "hang" and config.x in config.faulty:
        try:
            time.sleep(60)
        except RuntimeError:
            if config.soft:
                raise
    unlucky = config.x in config.faulty and (not config.unlucky or config.seed in config.unlucky)
    if config.fault == "raise" and unlucky:
        raise RuntimeError(f"no luck at x={config.x}")
    once = config.fault == "full" and not Path(config.trace + ".full").exists()
    if (once or config.fault == "always full") and unlucky:
        Path(config.trace + ".full").touch()
        raise OSError(errno.ENOSPC, "No space left on device")
    if config.fault == "write":
        (Path(HydraConfig.get().runtime.output_dir) / "weights").write_bytes(bytes(1 << 18))
    if config.fault == "no number" and config.x in config.faulty:
        return float("nan")
    there = [config.x, config.seed] == list(config.kill_at)
    if (there or (config.fault == "kill" and unlucky)) and not Path(config.trace + ".killed").exists():
        Path(config.trace + ".killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    for epoch in range(1, 5):
        channel.report(epoch, -((config.x - 3) ** 2))
        if channel.should_prune():
            raise Pruned(f"pruned after epoch {epoch}")
    value = -float((config.x - 3) ** 2) + config.jitter * math.sin(11 * config.x + 7 * config.seed)
    if config.admit:
        write(config, value)
    if config.fault == "kill late" and config.x in config.faulty and not Path(config.trace + ".killed").exists():
        Path(config.trace + ".killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if config.noise:
        value += config.seed % 2
    return (value, float(config.x)) if config.two else value


def write(config: DictConfig, value: float, reused_from: str | None = None) -> None:
    """Write a ledger as real trials do: result, history, config, and weights where they are kept."""
    channel, output = current(), Path(HydraConfig.get().runtime.output_dir)
    result = TrialResult(
        study=channel.study,
        trial=channel.number,
        phase=channel.phase,
        status="ok",
        seed=config.seed,
        metrics={"val_top1": value},
        fingerprint=fingerprint(config),
        reused_from=reused_from,
        overrides=list(HydraConfig.get().overrides.task),
        run_dir=str(output.relative_to(channel.study_dir or output)),
    )
    result.arm, result.arch_hash = f"x={config.x}", f"x={config.x}"
    result.is_baseline = channel.is_baseline
    if channel.phase == "final":
        result.metrics["test_top1"] = value
        (output / ".hydra").mkdir(exist_ok=True)
        (output / ".hydra" / "config.yaml").write_text("checkpoint: final\n")
        with zipfile.ZipFile(output / "checkpoint.pt", "w") as weights:
            weights.writestr("data", bytes(64))
    record = Record(output, result)
    for epoch in (1, 2):
        record.epoch({"epoch": epoch, "val_top1": value})
    record.close()


def fingerprint(config: DictConfig) -> str:
    return f"x={config.x} seed={config.seed}"


if __name__ == "__main__":
    main()
