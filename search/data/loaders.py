"""What a trial trains and is scored on: loaders of its splits, and the one over images in memory.

Legend: B = batch, C = channels, H, W = height, width, P = crop padding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from search.data.config import DataConfig
from search.data.images import Data, DataInfo, TensorPair

Batch = tuple[Tensor, Tensor]


class Loader(Protocol):
    """Batches of one split: pairs of inputs and targets, on the device of the trial.

    Attributes:
        samples: images in one pass, of all ranks together.
    """

    samples: int

    def at(self, epoch: int, step: int = 0) -> Self:
        """Let each iteration from here on give the batches of `epoch` (from 0) behind its first `step` ones."""
        ...

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...

    def sample(self, count: int) -> Batch:
        """One batch of `count` images, at most one training batch, of epoch 0, which is never trained."""
        ...


@dataclass(frozen=True)
class Loaders:
    """The loaders of a trial's splits, the test split only where it was asked for.

    Attributes:
        info: what is known of its data.
        chance: what guessing reaches on the validation images, by the ledger's columns (`chance_<metric>`).
    """

    train: Loader
    val: Loader
    test: Loader | None
    info: DataInfo
    chance: Mapping[str, float] = field(default_factory=dict)


def memory_loaders(
    data: Data, config: DataConfig, *, seed: int, device: torch.device | str = "cpu", rank: int = 0, world: int = 1
) -> Loaders:
    """Loaders over images in memory; see `MemoryLoader`."""

    def loader(pair: TensorPair, training: bool) -> MemoryLoader:
        return MemoryLoader(
            pair, data.info, config, training=training, seed=seed, device=device, rank=rank, world=world
        )

    test = None if data.test is None else loader(data.test, training=False)
    return Loaders(loader(data.train, training=True), loader(data.val, training=False), test, data.info)


class MemoryLoader:
    """Gives (images, labels): float32 (B, C, H, W), normalised by channel, and int64 (B,), on the device.

    Order and augmentation of an epoch depend on (seed, epoch) alone. They are drawn on the CPU from a generator of
    their own, so that every arm of a study sees the same batches, whatever its model takes from torch's global
    generator and whatever device it runs on. Ranks draw alike, and each takes its share of every batch.

    Args:
        pair: uint8 images (N, C, H, W) and int64 labels (N,) of one split; moved to the device once.
        info: says by which mean and standard deviation to normalise.
        config: says the batch sizes, of all ranks together, and the augmentation.
        training: shuffle, augment and drop the incomplete last batch; otherwise every image once, in order, unchanged.
        seed: the trial's seed; of no meaning outside training.
        device: where the images are kept and the batches made.
        rank, world: which of how many processes that share each batch.

    Raises:
        ValueError: there are no images, or a training batch is larger than the data.
    """

    def __init__(
        self,
        pair: TensorPair,
        info: DataInfo,
        config: DataConfig,
        *,
        training: bool,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        count = len(pair.labels)
        self.batch_size = config.batch_size if training else config.eval_batch_size
        if count == 0 or (training and self.batch_size > count):
            raise ValueError(
                f"data.batch_size={self.batch_size} cannot be had from {count} images. Choose fewer, or more images."
            )
        self._training, self._seed = training, seed
        self._epoch = self._step = 0
        self._share = slice(rank, None, world)
        self.flip, self.crop_padding = config.flip, config.crop_padding
        self.device = torch.device(device)
        self._images, self.labels = pair.images.to(self.device), pair.labels.to(self.device)
        shape = (1, -1, 1, 1)
        self._mean = torch.tensor(info.mean, device=self.device).mul_(255).view(shape)
        self._scale = torch.tensor(info.std, device=self.device).mul_(255).reciprocal_().view(shape)
        self.samples = len(self) * self.batch_size if training else count

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        count = len(self.labels)
        return count // self.batch_size if self._training else -(-count // self.batch_size)

    def at(self, epoch: int, step: int = 0) -> Self:
        """As `Loader.at`; the draws of the batches in front are made again, so that the rest is what it was.

        Raises:
            ValueError: the epoch has fewer batches.
        """
        if not 0 <= step <= len(self):
            raise ValueError(f"batch {step} of an epoch of {len(self)}")
        self._epoch, self._step = epoch, step
        return self

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches from where `at` says."""
        return self._train() if self._training else self._evaluate()

    def sample(self, count: int) -> Batch:
        """As `Loader.sample`; with the draws of a loader of that batch size."""
        generator = _generator(self._seed, 0)
        order = torch.randperm(len(self.labels), generator=generator)
        return self._take(order[: min(count, self.batch_size)], generator)

    def _train(self) -> Iterator[Batch]:
        generator = _generator(self._seed, self._epoch)
        order = torch.randperm(len(self.labels), generator=generator)
        indices = order.split(self.batch_size)[: len(self)]
        for index in indices[: self._step]:
            self._draw(len(index), generator)
        for index in indices[self._step :]:
            yield self._take(index, generator)

    def _evaluate(self) -> Iterator[Batch]:
        pairs = zip(self._images.split(self.batch_size), self.labels.split(self.batch_size), strict=True)
        for images, labels in list(pairs)[self._step :]:
            yield self._normalise(images[self._share]), labels[self._share]

    def _take(self, index: Tensor, generator: torch.Generator) -> Batch:
        """Crop, then flip, then normalise."""
        offsets, mirrored = self._draw(len(index), generator)
        chosen = index[self._share].to(self.device)
        images = self._images[chosen]
        if self.crop_padding:
            offsets = offsets[:, self._share].to(self.device)
            images = crop(images, offsets[0], offsets[1], self.crop_padding)
        if self.flip:
            flipped = mirrored[self._share].to(self.device).view(-1, 1, 1, 1)
            images = torch.where(flipped, images.flip(3), images)
        return self._normalise(images), self.labels[chosen]

    def _draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw for both in any case, so that one switch does not change the other's draws."""
        offsets = torch.randint(0, 2 * self.crop_padding + 1, (2, count), generator=generator)
        return offsets, torch.rand(count, generator=generator) < 0.5

    def _normalise(self, images: Tensor) -> Tensor:
        return images.float().sub_(self._mean).mul_(self._scale)


def crop(images: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Pad images with zeros and cut a window of the first size out of each.

    Args:
        images: (B, C, H, W) of any type.
        top: int64 (B,), the window's first row in the padded image, 0 to 2 * padding.
        left: int64 (B,), its first column, likewise.
        padding: zero pixels on each side, P.

    Returns:
        (B, C, H, W). `top = left = padding` leaves an image as it is.
    """
    height, width = images.shape[2:]
    padded = pad(images, (padding,) * 4)  # B, C, H + 2P, W + 2P
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # B, C, 2P + 1, 2P + 1, H, W: a view, no copy
    return windows[torch.arange(len(images), device=images.device), :, top, left]  # B, C, H, W


def _generator(seed: int, epoch: int) -> torch.Generator:
    """A generator for two numbers, such that (0, 1) and (1, 0) share nothing."""
    digest = hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))
