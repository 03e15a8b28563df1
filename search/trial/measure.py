"""What a network costs on its device: time, memory of a training step, and whether its fused form is the same network."""

from __future__ import annotations

import contextlib
import copy
import logging
import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map_only

import xvol
from search.recipe import MeasureConfig, TrainConfig
from search.slot import WAIT_SECONDS, Lease, turnstile
from search.tasks.base import Task, TimesBody
from search.trial.optim import make_optimizer
from search.trial.train import autocast, formed

if TYPE_CHECKING:
    from timm.task import TrainingTask

log = logging.getLogger("xvol")
WARM_UP = 3
LEAST_CPU_SHARE = 0.9  # of wall time: below it something else was given the processor


def usable_device(name: str) -> torch.device:
    """The device of that name, "auto" for an accelerator where there is one; ValueError where it cannot be used here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(f"device={name}: not usable here ({first_line}); take auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.cuda.reset_peak_memory_stats(device)
    return device


def check_devices(device: torch.device, ranks: int) -> None:
    """Raise ValueError where there is no device for each of so many ranks."""
    if ranks == 1 or device.type == "cpu":
        return
    there = torch.cuda.device_count() if device.type == "cuda" else 0
    if ranks > there:
        what = (
            f"{there} GPU(s) can be seen" if there else f"several ranks run on CUDA or on the CPU, not on {device.type}"
        )
        raise ValueError(
            f"ranks={ranks}, and {what}: give a trial as many GPUs (hydra.launcher.gpus_per_trial={ranks}; on Slurm "
            f"hydra.launcher.gpus_per_node={ranks}, with Ray hydra.launcher.ray.remote.num_gpus={ranks}), or take device=cpu"
        )


def slot_name(device: torch.device) -> str:
    """What the workers share whose times would disturb each other: the processors of the machine, or one accelerator."""
    if device.type == "cuda":
        return f"cuda-{torch.cuda.get_device_properties(device).uuid}"
    return device.type


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def device_name(device: torch.device) -> str:
    """What a figure of time or memory was measured on, e.g. "cpu" or "NVIDIA H100 80GB HBM3"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass of the form that is trained and of the fused form: medians.

    Attributes:
        latency_ms, latency_fused_ms: by the clock on the wall.
        latency_cpu_ms, latency_fused_cpu_ms: CPU time of this process; None where an accelerator does the work.
        latency_exclusive: no other worker was at work meanwhile, and on a CPU nothing else took the processor away.
        latency_body_ms, latency_body_fused_ms: by the clock, of a detector's body and pyramid alone; None of all else.
    """

    latency_ms: float
    latency_fused_ms: float
    latency_cpu_ms: float | None
    latency_fused_cpu_ms: float | None
    latency_exclusive: bool
    latency_body_ms: float | None = None
    latency_body_fused_ms: float | None = None


@dataclass(frozen=True)
class Costs:
    """Figures of the form that is trained and of the fused form; units as in `TrialResult`."""

    params: int
    params_fused: int
    macs: int
    macs_fused: int
    fuse_error: float
    latency: Latency | None

    def columns(self) -> dict[str, float]:
        """Names and values of the columns of a `TrialResult` that were measured."""
        row = asdict(self)
        return row | (row.pop("latency") or {})


def measure(model: nn.Module, input_size: tuple[int, int, int], config: MeasureConfig, seed: int) -> Costs:
    """Fuse `model`, compare the logits, count and time both forms.

    Args:
        input_size: channels, height, width of one image.
        seed: of the random images that are compared and timed.

    Raises:
        RuntimeError: the fused form's logits differ by more than `config.fuse_tolerance` allows.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(config.latency_batch, *input_size, generator=generator).to(device)
    model = model.eval()
    fused = xvol.fuse(model, input_size).eval()  # plain convolutions take their norms in too, in every arm alike
    with torch.no_grad():
        scale = max(1.0, *(float(each.abs().max()) for each in tree_leaves(model(images))))
    error = xvol.fuse_error(model, fused, images)
    if not error <= config.fuse_tolerance * scale:
        raise RuntimeError(
            f"the fused form is another network: a logit differs by {error:.3g}, allowed is "
            f"measure.fuse_tolerance={config.fuse_tolerance:g} of the largest logit, {scale:.3g}"
        )
    return Costs(
        params=xvol.count_params(model),
        params_fused=xvol.count_params(fused),
        macs=xvol.count_macs(model, input_size),
        macs_fused=xvol.count_macs(fused, input_size),
        fuse_error=error,
        latency=latency(model, fused, images, config.latency_repeats) if config.latency_repeats else None,
    )


@torch.no_grad()
def latency(model: nn.Module, fused: nn.Module, images: torch.Tensor, repeats: int) -> Latency:
    """Time both forms, and that part of both that a `TimesBody` names, in an exclusive slot: by turns, so that drift falls on all alike.

    Where the slot cannot be had in time, or something else takes the processor away, the figures are taken all the same:
    `latency_exclusive` is False then, and the log says why.

    Args:
        images: one batch, on the device of both.
        repeats: timed passes of each form, at least 1.
    """
    device = images.device
    forms = [model, fused, *(form.body_and_pyramid for form in (model, fused) if isinstance(form, TimesBody))]
    wall: list[list[float]] = [[] for _ in forms]
    busy: list[list[float]] = [[] for _ in forms]
    here = turnstile(slot_name(device))
    with contextlib.nullcontext(Lease(granted=False)) if here is None else here.alone() as lease:
        for turn in range(WARM_UP + repeats):
            for form, walls, cpus in zip(forms, wall, busy, strict=True):
                synchronize(device)
                start, cpu = time.perf_counter(), time.process_time()
                form(images)
                synchronize(device)
                if turn >= WARM_UP:
                    cpus.append((time.process_time() - cpu) * 1e3)
                    walls.append((time.perf_counter() - start) * 1e3)
        granted, held = lease.granted, lease.holds
    share = sum(map(sum, busy)) / sum(map(sum, wall)) if device.type == "cpu" else 1.0
    if not granted:
        log.warning("the latency is marked: other workers did not stand still within %.0f s", WAIT_SECONDS)
    elif not held:
        log.warning("the latency is marked: it took so long that other workers went on")
    elif share < LEAST_CPU_SHARE:
        log.warning("the latency is marked: this process had the processor in %.0f %% of the time only", 100 * share)
    plain_cpu, fused_cpu = (statistics.median(cpus) if device.type == "cpu" else None for cpus in busy[:2])
    plain, deployed, *body = (statistics.median(walls) for walls in wall)
    return Latency(plain, deployed, plain_cpu, fused_cpu, held and share >= LEAST_CPU_SHARE, *body)


def train_memory_mb(
    model: nn.Module, task: Task, batch: tuple[Tensor, Tensor], config: TrainConfig, device: torch.device, seed: int = 0
) -> float:
    """MiB (2**20 bytes) that one training step keeps; measured on a copy.

    On a CPU: parameters, buffers, gradients, the optimiser's state and the tensors that the forward pass saves for the
    backward one, the images among them; each storage once. What a kernel takes for a moment is not in it, nor what a
    custom autograd function hides outside of `save_for_backward`. On CUDA: the most that torch held at any moment of
    the step, `torch.cuda.max_memory_allocated`, above what it held before. The moving average of the weights, one more
    copy of the parameters, is in neither.

    Args:
        model: on any device; left as it is.
        batch: inputs and targets of the step.
        config: the recipe: optimiser, autocast, loss.
        device: where the step is taken.
        seed: of what the network draws.
    """
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []), torch.enable_grad():
        torch.manual_seed(seed)
        if cuda:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) if cuda else 0
        kept = _step(task.training(formed(copy.deepcopy(model).train(), config, device), config), batch, config, device)
        if cuda:
            kept = torch.cuda.max_memory_allocated(device) - before
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)  # the trial's own peak is counted from here
    return kept / 2**20


def _step(training: TrainingTask, batch: tuple[Tensor, Tensor], config: TrainConfig, device: torch.device) -> int:
    """Take one step; return the bytes of all storages that are kept for it."""
    model = cast(nn.Module, training.get_trainable_module())
    optimizer = make_optimizer(model, config)
    inputs, targets = tree_map_only(Tensor, lambda part: part.to(device), batch)
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor.detach())  # held until they are counted, so that no address is given to another
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), autocast(device, config.amp_type):
        loss = training(inputs, targets)["loss"]
    resident = _storages([*model.parameters(), *model.buffers()])
    kept = sum((_storages(saved) | resident).values())
    saved.clear()  # their addresses are free for gradients from here on
    loss.backward()
    optimizer.step()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    state = [leaf for leaf in tree_leaves(dict(optimizer.state)) if isinstance(leaf, Tensor)]
    later = {address: size for address, size in _storages([*gradients, *state]).items() if address not in resident}
    return kept + sum(later.values())


def _storages(tensors: list[Any]) -> dict[int, int]:
    """Bytes by address of the storages behind `tensors`; a view keeps the whole of its storage."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return {storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}
