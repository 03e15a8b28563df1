"""What a trained network costs, and whether its fused form is the same network."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn

import xvol
from search.trial.recipe import MeasureConfig

__all__ = ["Costs", "chance_top1", "latency_ms", "measure"]

WARM_UP = 3


@dataclass(frozen=True)
class Costs:
    """Figures of the form that is trained and of the fused form; units as in `TrialResult`."""

    params: int
    params_fused: int
    macs: int
    macs_fused: int
    latency_ms: float | None
    latency_fused_ms: float | None
    fuse_error: float


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
    plain_ms, fused_ms = latency_ms([model, fused], images, config.latency_repeats)
    return Costs(
        params=xvol.count_params(model),
        params_fused=xvol.count_params(fused),
        macs=xvol.count_macs(model, input_size),
        macs_fused=xvol.count_macs(fused, input_size),
        latency_ms=plain_ms,
        latency_fused_ms=fused_ms,
        fuse_error=error,
    )


def chance_top1(train_labels: torch.Tensor, labels: torch.Tensor) -> float:
    """Percent of `labels` that are of the class most frequent in training: what a network that learned nothing reaches."""
    return 100.0 * float((labels == train_labels.bincount().argmax()).double().mean())


@torch.no_grad()
def latency_ms(models: list[nn.Module], images: torch.Tensor, repeats: int) -> list[float | None]:
    """Median milliseconds of one forward pass of each model; the models take turns, so drift falls on all alike."""
    if repeats < 1:
        return [None for _ in models]
    times: list[list[float]] = [[] for _ in models]
    for turn in range(WARM_UP + repeats):
        for model, kept in zip(models, times, strict=True):
            _synchronize(images.device)
            start = time.perf_counter()
            model(images)
            _synchronize(images.device)
            if turn >= WARM_UP:
                kept.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(kept) for kept in times]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
