"""Where workers go: the options of the `local` launcher, and the places they make on a machine. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from search.allowed import check_choice, check_number
from search.study.launching.devices import VISIBLE, Gpu

__all__ = ["LocalLauncherOptions", "Slot", "check_options", "slots"]

DEVICES = ("auto", "cuda", "cpu")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass
class LocalLauncherOptions:
    """Keys of `hydra.launcher` with `hydra/launcher=local`: one process for each worker, on this machine.

    Attributes:
        workers: processes at once. "auto" is `per_gpu` for each visible GPU, or one for each `threads` cores where there is
            no GPU.
        per_gpu: workers on one GPU. "auto" is as many as fit into its free memory at `gpu_memory_gb` each, and no more than
            there are cores.
        gpu_memory_gb: GPU memory that one worker needs, in units of 1024 MiB. With a number in `per_gpu` it is checked.
        threads: CPU threads of one worker (OMP_NUM_THREADS and its kin, set before torch is imported).
        device: "auto" takes GPUs where there are any, "cuda" insists on them, "cpu" hides them from the workers.
        restarts: how often a worker that was killed is started again without having made progress.
        stagger_seconds: pause between the starts of two workers.
        grace_seconds: how long a worker may take to save and stop once the launcher has died or has been sent SIGTERM;
            then it is killed. After a Ctrl-C there is no such limit: a second one kills.
        env: further environment variables of the workers, e.g. `+hydra.launcher.env.NCCL_DEBUG=INFO`; they win over
            everything above.
    """

    _target_: str = "hydra_plugins.xvol_launcher.LocalLauncher"
    workers: Any = "auto"
    per_gpu: Any = 1
    gpu_memory_gb: float | None = None
    threads: int = 1
    device: str = "auto"
    restarts: int = 3
    stagger_seconds: float = 0.0
    grace_seconds: float = 120.0
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Slot:
    """A place for one worker.

    Attributes:
        device: value of CUDA_VISIBLE_DEVICES; "" hides every GPU, None leaves the variable as it is.
        threads: CPU threads.
    """

    number: int
    device: str | None
    threads: int

    @property
    def title(self) -> str:
        """The slot in words."""
        return f"slot {self.number} ({f'GPU {self.device}' if self.device else 'CPU'})"

    def environment(self) -> dict[str, str]:
        """Environment variables that make a process stay in this slot."""
        pinned = {} if self.device is None else {VISIBLE: self.device}
        return {**dict.fromkeys(THREADS, str(self.threads)), **pinned}


def check_options(options: LocalLauncherOptions) -> None:
    """Raise ValueError where a value is out of its range."""
    for name in ("workers", "per_gpu"):
        value = getattr(options, name)
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"hydra.launcher.{name}={value}: allowed is auto, or a whole number from 1")
    check_choice("hydra.launcher.device", options.device, DEVICES)
    for name, low in (("threads", 1), ("restarts", 0), ("stagger_seconds", 0), ("grace_seconds", 0)):
        check_number(f"hydra.launcher.{name}", getattr(options, name), low=low)
    if options.gpu_memory_gb is not None and not 0 < options.gpu_memory_gb < math.inf:
        raise ValueError(f"hydra.launcher.gpu_memory_gb={options.gpu_memory_gb}: give a number above 0, e.g. 4")
    if options.per_gpu == "auto" and options.gpu_memory_gb is None:
        raise ValueError(
            "hydra.launcher.per_gpu=auto packs workers by memory: say what one needs, e.g. hydra.launcher.gpu_memory_gb=4, "
            "or give a number, e.g. hydra.launcher.per_gpu=2"
        )


def slots(options: LocalLauncherOptions, gpus: Sequence[Gpu], cores: int) -> list[Slot]:
    """The places for workers on a machine with these GPUs and cores; pure.

    Slots go round the GPUs, so that fewer jobs than slots are spread over all of them.

    Raises:
        ValueError: an option is out of its range, or asks for more than the machine has.
    """
    check_options(options)
    if options.device == "cpu" or not gpus:
        if options.device == "cuda":
            raise ValueError(
                "hydra.launcher.device=cuda, but no GPU can be seen: look at nvidia-smi and at CUDA_VISIBLE_DEVICES, or take "
                "hydra.launcher.device=auto"
            )
        count = max(1, cores // options.threads) if options.workers == "auto" else options.workers
        hidden = "" if options.device == "cpu" else None
        return [Slot(number, hidden, options.threads) for number in range(count)]
    rooms = [_room(options, gpu, len(gpus), cores) for gpu in gpus]
    order = [gpu for level in range(max(rooms)) for gpu, room in zip(gpus, rooms, strict=True) if level < room]
    if not order:
        free = ", ".join(f"{gpu.name}: {(gpu.free_mib or 0) / 1024:.1f}" for gpu in gpus)
        raise ValueError(
            f"hydra.launcher.gpu_memory_gb={options.gpu_memory_gb:g} fits on no GPU; GB free on {free}. End what runs there, or "
            "give a smaller number"
        )
    if options.workers == "auto":
        return [Slot(number, gpu.name, options.threads) for number, gpu in enumerate(order)]
    if options.workers > len(order):
        raise ValueError(
            f"hydra.launcher.workers={options.workers}, but {len(gpus)} GPU(s) have room for {len(order)} "
            f"(hydra.launcher.per_gpu={options.per_gpu}): take workers=auto, or raise per_gpu to "
            f"{math.ceil(options.workers / len(gpus))}"
        )
    return [Slot(number, gpu.name, options.threads) for number, gpu in enumerate(order[: options.workers])]


def _room(options: LocalLauncherOptions, gpu: Gpu, gpus: int, cores: int) -> int:
    need = None if options.gpu_memory_gb is None else options.gpu_memory_gb * 1024
    if options.per_gpu == "auto":
        assert need is not None, "check_options asks for it"
        if gpu.free_mib is None:
            raise ValueError(
                f"hydra.launcher.per_gpu=auto: the driver does not tell the free memory of {gpu.name}; give a number"
            )
        return min(int(gpu.free_mib // need), max(1, cores // options.threads // gpus))
    if need is not None and gpu.free_mib is not None and gpu.free_mib < need * options.per_gpu:
        raise ValueError(
            f"hydra.launcher.per_gpu={options.per_gpu} with gpu_memory_gb={options.gpu_memory_gb:g} does not fit on {gpu.name}, "
            f"which has {gpu.free_mib / 1024:.1f} GB free: take per_gpu=auto, or leave that GPU out of CUDA_VISIBLE_DEVICES"
        )
    return int(options.per_gpu)
