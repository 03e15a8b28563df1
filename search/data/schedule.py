"""Which images make which batch of an epoch, by (seed, epoch) alone; the same whether they are in memory or decoded on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from search.data.keyed import generator

Key = tuple[int, int, int]  # epoch, index, turn


class Schedule:
    """Which images make which batch of an epoch: shuffled by (seed, epoch) in training, in their order otherwise.

    In training the incomplete last batch is dropped. Ranks shuffle alike, and each takes its share of every batch.

    Args:
        count: images of the split, N.
        batch_size: of all ranks together.
        repeats: turns that an image has in training, one after the other, R; an epoch then takes 1/R of the images.
        rank, world: which of how many processes that share each batch.

    Attributes:
        samples: images in one pass, of all ranks together.

    Raises:
        ValueError: there are no images, or a training batch is larger than the data.
    """

    def __init__(
        self, count: int, batch_size: int, *, training: bool, seed: int, repeats: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        if count == 0 or (training and batch_size > count):
            raise ValueError(
                f"data.batch_size={batch_size} cannot be had from {count} images. Choose fewer, or more images."
            )
        self.count, self.batch_size, self.repeats = count, batch_size, max(repeats, 1) if training else 1
        self.training, self.seed, self.epoch, self.step = training, seed, 0, 0
        self._share = slice(rank, None, world)
        self.samples = len(self) * batch_size if training else count

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.count // self.batch_size if self.training else -(-self.count // self.batch_size)

    def at(self, epoch: int, step: int) -> None:
        """Begin there at the next iteration; ValueError where the epoch has fewer batches."""
        if not 0 <= step <= len(self):
            raise ValueError(f"batch {step} of an epoch of {len(self)}")
        self.epoch, self.step = epoch, step

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give this rank's part of each batch: indices and turns, int64 (B,)."""
        whole = self.of(self.epoch)
        for part in range(self.step, len(self)):
            batch = whole[:, part * self.batch_size : (part + 1) * self.batch_size][:, self._share]
            if batch.shape[1]:
                yield batch[0], batch[1]

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` images of epoch 0, one batch at most; the same on every rank."""
        batch = self.of(0)[:, : min(count, self.batch_size)]
        return batch[0], batch[1]

    def of(self, epoch: int) -> Tensor:
        """Index and turn of each image of an epoch, int64 (2, N)."""
        order = torch.arange(self.count)
        if self.training:
            order = torch.randperm(self.count, generator=generator(self.seed, epoch, "order"))
        turns = torch.arange(self.count) % self.repeats
        return torch.stack((order.repeat_interleave(self.repeats)[: self.count], turns))


class Keys:
    """The batches of a schedule, as torch's loader asks for them: anew in each epoch, and in this process."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def __len__(self) -> int:
        return len(self._schedule)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self._schedule.epoch
        for index, turn in self._schedule:
            yield [(epoch, *each) for each in zip(index.tolist(), turn.tolist(), strict=True)]


def alternating(shape: tuple[int, int], seed: int, epoch: int = 0) -> Tensor:
    """Which turns of which images an epoch mirrors where `data.flip` is "alternate", bool (R, N).

    An image's first side hangs on the seed alone; from there on it is mirrored every other time, in each epoch's turns too.
    """
    first = torch.rand(shape[1], generator=generator(seed, "side")) < 0.5  # N
    return first ^ ((torch.arange(shape[0]).unsqueeze(1) + epoch) % 2 == 1)


class Scheduled:
    """What loaders over a schedule share: where an epoch begins, its length, and `samples` as of the schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule, self.samples = schedule, schedule.samples

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._schedule)

    def at(self, epoch: int, step: int = 0) -> Self:
        """As `Loader.at`, at no cost: no image in front is drawn for or decoded.

        Raises:
            ValueError: the epoch has fewer batches.
        """
        self._schedule.at(epoch, step)
        return self
