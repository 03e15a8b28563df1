"""Where workers go: a machine's GPUs and cores, and the options of the `local` launcher. Free of torch."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xvol.allowed import check_choice, check_number

log = logging.getLogger("xvol")
VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS = 20.0  # a driver that wakes up takes some; one that hangs takes for ever
_QUERY = ("--query-gpu=index,uuid,memory.free,memory.total", "--format=csv,noheader,nounits")
_MIG_LINE = re.compile(r"^\s+MIG .*\(UUID: (MIG-[^)]+)\)")
_GPU_LINE = re.compile(r"^GPU \d+: .*\(UUID: (GPU-[^)]+)\)")


@dataclass(frozen=True)
class Gpu:
    """A GPU that workers may be pinned to.

    Attributes:
        name: what CUDA_VISIBLE_DEVICES takes for it: the user's own word where that variable is set, else its UUID.
        free_mib, total_mib: memory in MiB; None where the driver does not tell (MIG devices, unified memory).
    """

    name: str
    free_mib: float | None = None
    total_mib: float | None = None


def visible_gpus(environ: Mapping[str, str] | None = None, timeout: float = SECONDS) -> list[Gpu]:
    """NVIDIA GPUs that this process may use, as nvidia-smi lists them and CUDA_VISIBLE_DEVICES allows.

    As CUDA does it, the variable is read up to the first entry that names no device; an empty one hides all. An index is
    kept as it was given, for CUDA counts in an order of its own unless CUDA_DEVICE_ORDER=PCI_BUS_ID.

    Raises:
        RuntimeError: nvidia-smi fails although the machine has GPUs, and CUDA_VISIBLE_DEVICES names none.
    """
    environ = os.environ if environ is None else environ
    asked = environ.get(VISIBLE)
    if asked is not None and not _words(asked):
        return []
    try:
        listed = _listed(timeout)
    except _Broken as error:
        return _without_listing(str(error), asked)
    if asked is None:
        return [device for _, whole, parts in listed for device in (parts or [whole])]
    return _chosen(_words(asked), listed)


_Listed = tuple[int, Gpu, list[Gpu]]  # index, the GPU, and its MIG devices


class _Broken(Exception):
    """Why nvidia-smi gave no list."""


def _words(asked: str) -> list[str]:
    words = [word.strip() for word in asked.split(",")]
    end = next((n for n, word in enumerate(words) if word in ("", "-1", "NoDevFiles", "none", "void")), len(words))
    return words[:end]


def _chosen(words: list[str], listed: Sequence[_Listed]) -> list[Gpu]:
    found: list[Gpu] = []
    for word in words:
        match = next((gpu for index, gpu, _ in listed if word == str(index)), None)
        devices = [gpu for _, whole, parts in listed for gpu in (whole, *parts)]
        same = [gpu for gpu in devices if word.startswith(("GPU-", "MIG-")) and gpu.name.startswith(word)]
        if match is None and len(same) == 1:
            (match,) = same
        if match is None and word.startswith("MIG-GPU-"):  # the old form MIG-GPU-<uuid>/<gi>/<ci>, which no list shows
            match = Gpu(word)
        if match is None or word in (gpu.name for gpu in found):
            why = (
                "names it twice"
                if match
                else f"is no device of {', '.join(gpu.name for gpu in devices) or 'nvidia-smi'}"
            )
            log.warning("%s=%s: %s %s; as in CUDA it ends the list", VISIBLE, ",".join(words), word, why)
            break
        found.append(Gpu(word, match.free_mib, match.total_mib))
    return found


def _without_listing(reason: str, asked: str | None) -> list[Gpu]:
    if asked is not None:
        log.warning("%s; %s=%s is taken as it stands, and free memory is not known", reason, VISIBLE, asked)
        return [Gpu(word) for word in _words(asked)]
    if _device_files():
        raise RuntimeError(
            f"{reason}, yet this machine has a GPU. Name the GPUs in CUDA_VISIBLE_DEVICES (e.g. CUDA_VISIBLE_DEVICES=0,1), or run "
            "on the CPU with hydra.launcher.device=cpu"
        )
    if reason != _ABSENT:
        log.warning("%s, and no NVIDIA device is there: the workers run on the CPU", reason)
    return []


_ABSENT = "nvidia-smi is not installed"


def _device_files() -> list[Path]:
    """What the NVIDIA driver leaves in the file system for each GPU (under WSL: for all of them)."""
    return [*Path("/dev").glob("nvidia[0-9]*"), *Path("/proc/driver/nvidia/gpus").glob("*"), *Path("/dev").glob("dxg")]


def _listed(timeout: float) -> list[_Listed]:
    lines = _nvidia_smi(_QUERY, timeout).splitlines()
    cells = [[cell.strip() for cell in line.split(",")] for line in lines if line.strip()]
    if any(len(row) != 4 or not row[0].isdigit() for row in cells):
        raise _Broken(f"nvidia-smi answered {lines[0]!r} where 'index, uuid, free, total' was asked")
    parts = _mig_devices(_nvidia_smi(("-L",), timeout))
    return [(int(index), Gpu(uuid, _mib(free), _mib(total)), parts.get(uuid, [])) for index, uuid, free, total in cells]


def _mig_devices(listing: str) -> dict[str, list[Gpu]]:
    parts: dict[str, list[Gpu]] = {}
    whole = ""
    for line in listing.splitlines():
        if match := _GPU_LINE.match(line):
            whole = match[1]
        elif match := _MIG_LINE.match(line):
            parts.setdefault(whole, []).append(Gpu(match[1]))
    return parts


def _mib(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]", "[Insufficient Permissions]"
        return None


def _nvidia_smi(arguments: Sequence[str], timeout: float) -> str:
    try:
        command, nothing = ["nvidia-smi", *arguments], subprocess.DEVNULL
        done = subprocess.run(command, stdin=nothing, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise _Broken(f"nvidia-smi gave no answer within {timeout:g} s") from None
    except FileNotFoundError:
        raise _Broken(_ABSENT) from None
    except OSError as error:
        raise _Broken(f"nvidia-smi cannot be run ({error})") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "and said nothing").splitlines()[0]
        raise _Broken(f"nvidia-smi ended with {done.returncode} ({said})")
    return done.stdout


def usable_cores() -> int:
    """CPU cores that this process may keep busy: its affinity, and below that the budget of its control groups."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    return max(1, min(cores, int(_quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")))))


def _quota(root: Path, membership: Path) -> float:
    """Cores that the control groups of this process allow together; a large number where they set no limit."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return NO_LIMIT
    limits = [NO_LIMIT]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        base = root / "cpu" if controllers else root
        if not controllers or "cpu" in controllers.split(","):
            inner = base / path.lstrip("/")
            limits += [_limit_of(folder) for folder in (inner, *inner.parents) if folder.is_relative_to(base)]
    return max(1.0, min(limits))


def _limit_of(folder: Path) -> float:
    """The limit that one group sets: `cpu.max` in version 2, `cpu.cfs_*`, where -1 is none, in version 1."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            budget, period = map(int, " ".join((folder / name).read_text() for name in names).split())
            return budget / period if budget > 0 else NO_LIMIT
    return NO_LIMIT


NO_LIMIT = 1e9
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
        gpus_per_trial: GPUs that a trial is trained on, with a process for each; the visible ones are cut into groups of so
            many, in their order, and each group has one worker. Without GPUs, that many processes on the CPU.
        gpu_memory_gb: memory that one worker needs on its GPU, or on each of them, in units of 1024 MiB. With a number in
            `per_gpu` it is checked.
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
    gpus_per_trial: int = 1
    gpu_memory_gb: float | None = None
    threads: int = 1
    device: str = "auto"
    restarts: int = 3
    stagger_seconds: float = 0.0
    grace_seconds: float = 120.0
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Slot:
    """A place for one worker: `device` for CUDA_VISIBLE_DEVICES ("" hides every GPU, None leaves it), and CPU threads.

    Several GPUs of one worker are joined by commas.
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
    for name, low in (
        ("gpus_per_trial", 1),
        ("threads", 1),
        ("restarts", 0),
        ("stagger_seconds", 0),
        ("grace_seconds", 0),
    ):
        check_number(f"hydra.launcher.{name}", getattr(options, name), low=low)
    if options.gpu_memory_gb is not None and not 0 < options.gpu_memory_gb < math.inf:
        raise ValueError(f"hydra.launcher.gpu_memory_gb={options.gpu_memory_gb}: give a number above 0, e.g. 4")
    if options.gpus_per_trial > 1 and options.per_gpu != 1:
        raise ValueError(
            f"hydra.launcher.gpus_per_trial={options.gpus_per_trial} takes whole GPUs: leave hydra.launcher.per_gpu="
            f"{options.per_gpu} out"
        )
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
        busy = options.threads * options.gpus_per_trial  # cores of a worker
        count = max(1, cores // busy) if options.workers == "auto" else options.workers
        hidden = "" if options.device == "cpu" else None
        return [Slot(number, hidden, options.threads) for number in range(count)]
    gpus = _groups(gpus, options.gpus_per_trial)
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
        if options.gpus_per_trial > 1:
            raise ValueError(
                f"hydra.launcher.workers={options.workers}, but there are {len(gpus)} group(s) of {options.gpus_per_trial} GPUs "
                "(hydra.launcher.gpus_per_trial): take workers=auto"
            )
        raise ValueError(
            f"hydra.launcher.workers={options.workers}, but {len(gpus)} GPU(s) have room for {len(order)} "
            f"(hydra.launcher.per_gpu={options.per_gpu}): take workers=auto, or raise per_gpu to "
            f"{math.ceil(options.workers / len(gpus))}"
        )
    return [Slot(number, gpu.name, options.threads) for number, gpu in enumerate(order[: options.workers])]


def _groups(gpus: Sequence[Gpu], size: int) -> list[Gpu]:
    """Each `size` GPUs as one, with the least memory of them; ValueError where there are not so many, or some are left."""
    if size == 1:
        return list(gpus)
    names = [gpu.name for gpu in gpus]
    asked = f"hydra.launcher.gpus_per_trial={size}"
    if any(name.startswith("MIG-") for name in names):
        raise ValueError(f"{asked}: a process can use one MIG device at most, and there are {', '.join(names)}")
    if len(gpus) % size:
        fitting = ", ".join(str(number) for number in range(1, len(gpus) + 1) if len(gpus) % number == 0)
        raise ValueError(
            f"{asked} does not divide the {len(gpus)} GPU(s) that can be seen ({', '.join(names)}): take one of {fitting}, or "
            f"name others in {VISIBLE}"
        )

    def least(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return min(known) if len(known) == size else None

    groups = [gpus[first : first + size] for first in range(0, len(gpus), size)]
    return [
        Gpu(
            ",".join(gpu.name for gpu in group), least([g.free_mib for g in group]), least([g.total_mib for g in group])
        )
        for group in groups
    ]


def ranks_of(launcher: Mapping[str, Any]) -> int:
    """How many GPUs the launcher of the node `hydra.launcher` gives each of its jobs, for a process on each; at least 1.

    `gpus_per_trial` of `local`, `gpus_per_node` of submitit, `ray.remote.num_gpus` of Ray; 1 of any other.

    Raises:
        ValueError: a job would be several tasks, or lie on several machines.
    """
    target = str(launcher["_target_"])
    if target == LocalLauncherOptions._target_:
        return int(launcher.get("gpus_per_trial") or 1)
    if "submitit" in target:
        for name in ("nodes", "tasks_per_node"):
            if (launcher.get(name) or 1) != 1:
                raise ValueError(
                    f"hydra.launcher.{name}={launcher[name]}: a trial is one task on one machine, and starts a process for each of "
                    f"its GPUs (hydra.launcher.gpus_per_node) by itself; take {name}=1. More jobs, on more machines: "
                    "hydra.sweeper.n_jobs"
                )
        return int(launcher.get("gpus_per_node") or launcher.get("gpus_per_task") or 1)
    ray: Any = launcher.get("ray") or {}
    return max(1, int((ray.get("remote") or {}).get("num_gpus") or 1))


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
