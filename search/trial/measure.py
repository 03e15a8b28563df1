"""What a trained network costs, and whether its fused form is the same network."""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from dataclasses import asdict, dataclass

import torch
from torch import nn

import xvol
from search.recipe import MeasureConfig
from search.slot import WAIT_SECONDS, Lease, turnstile
from search.trial.device import slot_name, synchronize

__all__ = ["Costs", "Latency", "chance_top1", "latency", "measure"]

log = logging.getLogger("xvol")
WARM_UP = 3
LEAST_CPU_SHARE = 0.9  # of wall time: below it something else was given the processor


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass of the form that is trained and of the fused form: medians.

    Attributes:
        latency_ms, latency_fused_ms: by the clock on the wall.
        latency_cpu_ms, latency_fused_cpu_ms: CPU time of this process; None where an accelerator does the work.
        latency_exclusive: no other worker was at work meanwhile, and on a CPU nothing else took the processor away.
    """

    latency_ms: float
    latency_fused_ms: float
    latency_cpu_ms: float | None
    latency_fused_cpu_ms: float | None
    latency_exclusive: bool


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
        scale = max(1.0, float(model(images).abs().max()))
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


def chance_top1(train_labels: torch.Tensor, labels: torch.Tensor) -> float:
    """Percent of `labels` that are of the class most frequent in training: what a network that learned nothing reaches."""
    return 100.0 * float((labels == train_labels.bincount().argmax()).double().mean())


@torch.no_grad()
def latency(model: nn.Module, fused: nn.Module, images: torch.Tensor, repeats: int) -> Latency:
    """Time both forms in an exclusive slot of the device; they take turns, so that drift falls on both alike.

    Where the slot cannot be had in time, or something else takes the processor away, the figures are taken all the same:
    `latency_exclusive` is False then, and the log says why.

    Args:
        images: one batch, on the device of both.
        repeats: timed passes of each form, at least 1.
    """
    device = images.device
    wall: list[list[float]] = [[], []]
    busy: list[list[float]] = [[], []]
    here = turnstile(slot_name(device))
    with contextlib.nullcontext(Lease(granted=False)) if here is None else here.alone() as lease:
        for turn in range(WARM_UP + repeats):
            for form, walls, cpus in zip((model, fused), wall, busy, strict=True):
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
    plain_cpu, fused_cpu = (statistics.median(cpus) if device.type == "cpu" else None for cpus in busy)
    plain, deployed = (statistics.median(walls) for walls in wall)
    return Latency(plain, deployed, plain_cpu, fused_cpu, latency_exclusive=held and share >= LEAST_CPU_SHARE)
