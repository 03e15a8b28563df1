"""Images in memory, augmented in batches on the device: flip, shift, and a random crop of random area.

Legend: B = batch, C = channels, H, W = height, width, N = images, P = crop padding, R = turns of an image in an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from search.data.config import ALTERNATE, Augmentation, DataConfig
from search.data.images import DataInfo, TensorPair, crops
from search.data.keyed import generator
from search.data.schedule import Schedule, Scheduled, alternating

ATTEMPTS = 10  # at a crop that fits, as in timm and torchvision
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # theirs where one of the two is not given


class _Draws(NamedTuple):
    """What is drawn for all images of an epoch: mirrored (R, N), offsets (2, R, N), boxes (4, R, N) or none."""

    mirrored: Tensor
    offsets: Tensor
    boxes: Tensor | None


class MemoryLoader(Scheduled):
    """Gives (images, labels): float32 (B, C, H, W), normalised by channel, and int64 (B,), on the device.

    What is drawn for an image hangs on (seed, epoch, index of the image) alone. It is drawn on the CPU from generators of its own,
    so that every arm of a study sees the same pixels, whatever its model takes from torch's global generator and whatever
    device it runs on; batch size, ranks and the batch where an epoch begins change none.

    Args:
        pair: uint8 images (N, C, H, W) and int64 labels (N,) of one split; moved to the device once.
        info: says by which mean and standard deviation to normalise.
        config: says the batch sizes, of all ranks together, flip and padding.
        augmentation: the recipe's; of it random crop and repeats.
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
        augmentation: Augmentation | None = None,
        *,
        training: bool,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._augmentation = augmentation = augmentation or Augmentation()
        batch_size, repeats = config.batch_size if training else config.eval_batch_size, augmentation.repeats
        super().__init__(
            Schedule(
                len(pair.labels), batch_size, training=training, seed=seed, repeats=repeats, rank=rank, world=world
            )
        )
        self._training, self._seed = training, seed
        self.flip, self._alternates = config.mirrors, config.flip == ALTERNATE
        self.crop_padding = 0 if crops(augmentation) else config.crop_padding
        self.device = torch.device(device)
        self._images, self.labels = pair.images.to(self.device), pair.labels.to(self.device)
        shape = (1, -1, 1, 1)
        self._mean = torch.tensor(info.mean, device=self.device).mul_(255).view(shape)
        self._scale = torch.tensor(info.std, device=self.device).mul_(255).reciprocal_().view(shape)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the batches from where `at` says."""
        draws = self._drawn(self._schedule.epoch) if self._training else None
        for index, turn in self._schedule:
            yield self._take(index, turn, draws)

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """As `Loader.sample`."""
        return self._take(*self._schedule.first(count), self._drawn(0))

    def _drawn(self, epoch: int) -> _Draws:
        """Each kind of draw has a generator of its own, so that one does not change the others."""
        flips, shifts, boxes = (generator(self._seed, epoch, what) for what in ("flip", "shift", "crop"))
        shape = (max(self._augmentation.repeats, 1), len(self.labels))
        mirrored = torch.rand(shape, generator=flips) < 0.5
        if self._alternates:
            mirrored = alternating(shape, self._seed, epoch)
        offsets = torch.randint(0, 2 * self.crop_padding + 1, (2, *shape), generator=shifts)
        if not crops(self._augmentation):
            return _Draws(mirrored, offsets, None)
        scale, ratio = self._augmentation.scale or SCALE, self._augmentation.ratio or RATIO
        return _Draws(mirrored, offsets, random_boxes(shape, self._images.shape[-1], scale, ratio, boxes))

    def _take(self, index: Tensor, turn: Tensor, draws: _Draws | None) -> tuple[Tensor, Tensor]:
        """Crop, flip, normalise."""
        chosen = index.to(self.device)
        images = self._images.index_select(0, chosen)  # indexing by [] takes thirty times as long on a CPU
        labels = self.labels[chosen]
        if draws is not None:
            mirrored = (draws.mirrored[turn, index] & self.flip).to(self.device)
            if draws.boxes is not None:
                images = crop_and_resize(images, draws.boxes[:, turn, index].to(self.device), mirrored)
            elif self.flip or self.crop_padding:
                top, left = draws.offsets[:, turn, index].to(self.device)
                images = crop(images, top, left, self.crop_padding, mirrored)
        return images.float().sub_(self._mean).mul_(self._scale), labels


def crop(images: Tensor, top: Tensor, left: Tensor, padding: int, mirrored: Tensor) -> Tensor:
    """Pad images with zeros, cut a window of the first size out of each, and mirror some of the windows.

    Args:
        images: (B, C, H, W) of any type.
        top: int64 (B,), the window's first row in the padded image, 0 to 2 * padding.
        left: int64 (B,), its first column, likewise.
        padding: zero pixels on each side, P.
        mirrored: bool (B,), left to right.

    Returns:
        (B, C, H, W). `top = left = padding` without a mirror leaves an image as it is.
    """
    (height, width), device = images.shape[2:], images.device
    padded = pad(images, (padding,) * 4)  # B, C, H + 2P, W + 2P
    across = torch.arange(width, device=device)
    columns = left.unsqueeze(1) + torch.where(mirrored.unsqueeze(1), across.flip(0), across)  # B, W
    rows = top.unsqueeze(1) + torch.arange(height, device=device)  # B, H
    pixels = (rows.unsqueeze(2) * padded.shape[3] + columns.unsqueeze(1)).flatten(1)  # B, H * W
    return padded.flatten(2).gather(2, pixels.unsqueeze(1).expand(-1, images.shape[1], -1)).view_as(images)


def random_boxes(
    shape: tuple[int, ...], size: int, scale: Sequence[float], ratio: Sequence[float], generator: torch.Generator
) -> Tensor:
    """Boxes of random area and form in square images, drawn as timm's `RandomResizedCropAndInterpolation` draws them.

    Args:
        shape: of a batch of boxes.
        size: height and width of the images in pixels.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width over height.

    Returns:
        int64 (4, *shape): top, left, height and width in pixels.
    """
    form = min(max(1.0, ratio[0]), ratio[1])  # where no draw fits, the largest box about the centre
    height, width = max(round(size / max(form, 1.0)), 1), max(round(size * min(form, 1.0)), 1)
    centred = torch.tensor([(size - height) // 2, (size - width) // 2, height, width])
    boxes = centred.view(4, *[1] * len(shape)).expand(4, *shape)
    found = torch.zeros(shape, dtype=torch.bool)
    logs = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(ATTEMPTS):
        area, form_of, down, right = torch.rand(4, *shape, generator=generator)
        areas = size**2 * (scale[0] + (scale[1] - scale[0]) * area)
        forms = (logs[0] + (logs[1] - logs[0]) * form_of).exp()
        heights, widths = ((areas / forms).sqrt().round().clamp(min=1), (areas * forms).sqrt().round().clamp(min=1))
        tops, lefts = (down * (size - heights + 1)).floor(), (right * (size - widths + 1)).floor()
        fits = (heights <= size) & (widths <= size) & ~found
        boxes = torch.where(fits, torch.stack((tops, lefts, heights, widths)).long(), boxes)
        found |= fits
    return boxes


def crop_and_resize(images: Tensor, boxes: Tensor, mirrored: Tensor) -> Tensor:
    """Cut a box out of each image, resize it, bilinear, to the size of the image, and mirror some.

    Args:
        images: (B, C, H, W).
        boxes: int64 (4, B): top, left, height and width.
        mirrored: bool (B,), left to right.

    Returns:
        float32 (B, C, H, W). A box that is the whole image leaves it as it is, but for rounding.
    """
    top, left, height, width = boxes.float().unsqueeze(2)  # each B, 1

    def places(first: Tensor, length: Tensor, size: int) -> Tensor:
        """Where each pixel comes from, from -1 to 1 over the image's edges (B, size); never from outside of the box."""
        steps = (torch.arange(size, device=images.device) + 0.5) / size
        inside = torch.minimum((steps * length - 0.5).clamp(min=0), length - 1)
        return (2 * (first + inside) + 1) / size - 1

    across, down = places(left, width, images.shape[3]), places(top, height, images.shape[2])
    across = torch.where(mirrored.unsqueeze(1), across.flip(1), across)
    shape = (len(images), *images.shape[2:])
    grid = torch.stack((across.unsqueeze(1).expand(shape), down.unsqueeze(2).expand(shape)), dim=3)  # B, H, W, 2
    return grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
