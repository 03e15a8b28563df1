"""How much memory one training step keeps: the figure that decides whether a recipe fits on an accelerator."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves

from search.recipe import TrainConfig
from search.trial.optim import make_optimizer
from search.trial.train import autocast

__all__ = ["train_memory_mb"]


def train_memory_mb(
    model: nn.Module,
    input_size: tuple[int, int, int],
    batch_size: int,
    config: TrainConfig,
    device: torch.device,
    seed: int = 0,
) -> float:
    """MiB (2**20 bytes) that one training step keeps; measured on a copy, with images of noise.

    On a CPU: parameters, buffers, gradients, the optimiser's state and the tensors that the forward pass saves for the
    backward one, the images among them; each storage once. What a kernel takes for a moment is not in it, nor what a
    custom autograd function hides outside of `save_for_backward`. On CUDA: the most that torch held at any moment of
    the step, `torch.cuda.max_memory_allocated`, above what it held before. The moving average of the weights, one more
    copy of the parameters, is in neither.

    Args:
        model: a classifier, on any device; left as it is.
        input_size: channels, height, width of one image.
        batch_size: images of the step.
        config: the recipe: optimiser, autocast.
        device: where the step is taken.
        seed: of the images.
    """
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []), torch.enable_grad():
        torch.manual_seed(seed)
        if cuda:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) if cuda else 0
        kept = _step(copy.deepcopy(model).to(device).train(), input_size, batch_size, config, device)
        if cuda:
            kept = torch.cuda.max_memory_allocated(device) - before
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)  # the trial's own peak is counted from here
    return kept / 2**20


def _step(
    model: nn.Module, input_size: tuple[int, int, int], batch_size: int, config: TrainConfig, device: torch.device
) -> int:
    """Take one step; return the bytes of all storages that are kept for it."""
    optimizer = make_optimizer(model, config)
    images = torch.randn(batch_size, *input_size, device=device)
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor.detach())  # held until they are counted, so that no address is given to another
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), autocast(device, config.amp):
        logits = model(images)
        loss = F.cross_entropy(logits.float(), torch.zeros(batch_size, dtype=torch.int64, device=device))
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
