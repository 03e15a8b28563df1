"""What a trial trains and is scored on: loaders of its splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from search.data.config import Augmentation, DataConfig
from search.data.images import Data, DataInfo, Pictures, TensorPair, needs_pictures, pictures_of
from search.data.memory import MemoryLoader
from search.data.splits import Splits
from search.data.stream import StreamLoader

Batch = tuple[Any, Any]  # tensors (B, ...), or lists of B where they are of several sizes


class Loader(Protocol):
    """Batches of one split: pairs of inputs and targets, tensors or lists, on the device of the trial.

    What is drawn for an image hangs on (seed, epoch, index of the image), the order on (seed, epoch): every arm of a study sees
    the same pixels, and no number of ranks, workers or steps done before changes one.

    Attributes:
        samples: images in one pass, of all ranks together.
        labels: int64, of all images of the split (N,), or of all objects in them.
    """

    samples: int
    labels: Tensor

    def at(self, epoch: int, step: int = 0) -> Self:
        """Let each iteration from here on give the batches of `epoch` (from 0) behind its first `step` ones."""
        ...

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...

    def sample(self, count: int) -> Batch:
        """One batch of `count` images, at most one training batch, of epoch 0, which is never trained; the same on every rank."""
        ...


@dataclass(frozen=True)
class Loaders:
    """The loaders of a trial's splits, the test split only where it was asked for.

    Attributes:
        info: what is known of its data.
        chance: what guessing reaches on the validation images, by the ledger's columns (`chance_<metric>`).
        splits: which images of the data set these are.
        probe: those whose outputs are kept one by one (`splits.probed`), in that order, whole for each rank.
    """

    train: Loader
    val: Loader
    test: Loader | None
    info: DataInfo
    chance: Mapping[str, float] = field(default_factory=dict)
    splits: Splits | None = None
    probe: Loader | None = None


def image_loaders(
    data: Data,
    config: DataConfig,
    augmentation: Augmentation | None = None,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world: int = 1,
) -> Loaders:
    """Loaders over images in memory or pictures that are decoded on the way; see `MemoryLoader` and `StreamLoader`.

    Args:
        rank, world: which of how many processes that share each training batch; whoever evaluates reads all.
    """
    recipe = augmentation or Augmentation()

    def loader(part: TensorPair | Pictures, training: bool) -> Loader:
        if isinstance(part, TensorPair) and training and needs_pictures(recipe):
            part = pictures_of(part)
        kind: Any = MemoryLoader if isinstance(part, TensorPair) else StreamLoader
        where = {"rank": rank, "world": world} if training else {}
        made: Loader = kind(part, data.info, config, recipe, training=training, seed=seed, device=device, **where)
        return made

    test = None if data.test is None else loader(data.test, training=False)
    probe = None if data.probe is None else loader(data.probe, training=False)
    train, val = loader(data.train, training=True), loader(data.val, training=False)
    return Loaders(train, val, test, data.info, splits=data.splits, probe=probe)
