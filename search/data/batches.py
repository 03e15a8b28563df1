"""Batches from images in memory: shuffled, flipped and cropped by torch, a whole batch at a time.

Legend: B = batch, C = channels, H, W = height, width, P = crop padding.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from search.data.config import DataConfig
from search.data.load import Data, TensorPair


class Batches:
    """Iterates over (images, labels): float32 (B, C, H, W), normalised by channel, and int64 (B,), on the device.

    Order and augmentation of an epoch depend on (seed, epoch) alone. They are drawn on the CPU from a generator of
    their own, so that every arm of a study sees the same batches, whatever its model takes from torch's global
    generator and whatever device it runs on.

    Args:
        pair: uint8 images (N, C, H, W) and int64 labels (N,): `data.train`, `data.val` or `data.test`; moved to the
            device once.
        data: Says by which mean and standard deviation to normalise.
        config: Says the batch sizes and the augmentation.
        training: Shuffle, augment and drop the incomplete last batch; otherwise every image once, in order, unchanged.
        seed: The trial's seed; of no meaning outside training.
        device: Where the images are kept and the batches made.

    Raises:
        ValueError: If there are no images, or a training batch is larger than the data.
    """

    def __init__(
        self,
        pair: TensorPair,
        data: Data,
        config: DataConfig,
        *,
        training: bool,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        count = len(pair.labels)
        self.batch_size = config.batch_size if training else config.eval_batch_size
        if count == 0 or (training and self.batch_size > count):
            raise ValueError(
                f"data.batch_size={self.batch_size} cannot be had from {count} images. Choose fewer, or more images."
            )
        self.training, self.seed, self.epoch = training, seed, 0
        self._step, self._generator = 0, torch.Generator()
        self._from: tuple[int, Tensor] | None = None
        self.flip, self.crop_padding = config.flip, config.crop_padding
        self.device = torch.device(device)
        self._images, self._labels = pair.images.to(self.device), pair.labels.to(self.device)
        shape = (1, -1, 1, 1)
        self._mean = torch.tensor(data.mean, device=self.device).mul_(255).view(shape)
        self._scale = torch.tensor(data.std, device=self.device).mul_(255).reciprocal_().view(shape)

    @property
    def images(self) -> int:
        """Images in one epoch."""
        return len(self) * self.batch_size if self.training else len(self._labels)

    def __len__(self) -> int:
        count = len(self._labels)
        return count // self.batch_size if self.training else -(-count // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order and augmentation the next iteration uses."""
        self.epoch = epoch
        self._from = None

    def state_dict(self) -> dict[str, Any]:
        """Where the running iteration over training batches stands: epoch, batches given, the generator's state."""
        return {"epoch": self.epoch, "step": self._step, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on where `state` was taken: it gives the rest of that epoch's batches.

        Raises:
            ValueError: the epoch has fewer batches.
        """
        if not 0 <= state["step"] <= len(self):
            raise ValueError(f"batch {state['step']} of an epoch of {len(self)}")
        self.epoch, self._from = state["epoch"], (state["step"], state["generator"])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._training() if self.training else self._evaluation()

    def _training(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = self._generator = torch.Generator().manual_seed(_mix(self.seed, self.epoch))
        order = torch.randperm(len(self._labels), generator=generator)
        self._step = 0
        if self._from is not None:
            (self._step, drawn), self._from = self._from, None
            generator.set_state(drawn)
        for index in order.split(self.batch_size)[self._step : len(self)]:
            chosen = index.to(self.device)
            self._step += 1
            yield self._normalise(self._augment(self._images[chosen], generator)), self._labels[chosen]

    def _evaluation(self) -> Iterator[tuple[Tensor, Tensor]]:
        pairs = zip(self._images.split(self.batch_size), self._labels.split(self.batch_size), strict=True)
        for images, labels in pairs:
            yield self._normalise(images), labels

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Crop, then flip. Draws for both in any case, so that one switch does not change the other's draws."""
        count = len(images)
        offsets = torch.randint(0, 2 * self.crop_padding + 1, (2, count), generator=generator).to(self.device)
        mirrored = (torch.rand(count, generator=generator) < 0.5).to(self.device)
        if self.crop_padding:
            images = crop(images, offsets[0], offsets[1], self.crop_padding)
        if self.flip:
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        return images

    def _normalise(self, images: Tensor) -> Tensor:
        return images.float().sub_(self._mean).mul_(self._scale)


def crop(images: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Pad images with zeros and cut a window of the first size out of each.

    Args:
        images: (B, C, H, W) of any type.
        top: int64 (B,), the window's first row in the padded image, 0 to 2 * padding.
        left: int64 (B,), its first column, likewise.
        padding: Zero pixels on each side, P.

    Returns:
        (B, C, H, W). `top = left = padding` leaves an image as it is.
    """
    height, width = images.shape[2:]
    padded = pad(images, (padding,) * 4)  # B, C, H + 2P, W + 2P
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # B, C, 2P + 1, 2P + 1, H, W: a view, no copy
    return windows[torch.arange(len(images), device=images.device), :, top, left]  # B, C, H, W


def _mix(seed: int, epoch: int) -> int:
    """One generator seed from two numbers, such that (0, 1) and (1, 0) share nothing."""
    digest = hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
