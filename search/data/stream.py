"""Pictures that are decoded on the way, by timm's transforms in torch's workers: a data set of any size."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import xvol  # noqa: F401  # before timm, where torch is a CPU build: see xvol/timm_hook.py

# isort: split
from timm.data import create_transform
from timm.data.loader import PrefetchLoader, fast_collate
from timm.data.transforms import str_to_interp_mode
from torchvision import transforms

from search.data.config import ALTERNATE, Augmentation, DataConfig
from search.data.images import DataInfo, Pictures, crops
from search.data.keyed import reseed, restored
from search.data.schedule import Key, Keys, Schedule, Scheduled, alternating


class StreamLoader(Scheduled):
    """As `MemoryLoader`, over pictures that `data.workers` processes decode and timm's transforms change.

    How many workers there are, what they take from their generators and where an epoch begins changes no pixel: each picture is
    drawn for from generators that are seeded anew, by (seed, epoch, index, turn).

    Args:
        pictures: of one split.
        info: mean and standard deviation, and how pictures are cut for evaluation.
        config, augmentation: batch sizes, of all ranks together, workers, and what is drawn for a training picture.
        training: shuffle, augment and drop the incomplete last batch; otherwise every picture once, in order, as timm evaluates.
        seed: the trial's seed; of no meaning outside training.
        device: where batches arrive.
        rank, world: which of how many processes that share each batch.

    Raises:
        ValueError: as `Schedule`; or timm does not take the augmentation.
    """

    def __init__(
        self,
        pictures: Pictures,
        info: DataInfo,
        config: DataConfig,
        augmentation: Augmentation,
        *,
        training: bool,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        batch_size, repeats = config.batch_size if training else config.eval_batch_size, augmentation.repeats
        super().__init__(
            Schedule(
                len(pictures.labels), batch_size, training=training, seed=seed, repeats=repeats, rank=rank, world=world
            )
        )
        self.labels = pictures.labels
        change = training_transform(info, config, augmentation) if training else evaluation_transform(info)
        shape = max(repeats, 1), len(pictures.labels)
        sides = alternating(shape, seed) if training and config.flip == ALTERNATE else None
        self._draws = _Draws(pictures, change, seed, sides)
        device = torch.device(device)
        workers = min(config.workers, cores())  # more of them only wait, and torch warns
        loader: DataLoader[Any] = DataLoader(
            self._draws,
            batch_sampler=Keys(self._schedule),
            num_workers=workers,
            collate_fn=fast_collate,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # it draws a seed for the workers, which must not come out of the global generator
            persistent_workers=workers > 0,
        )
        self._to_device = functools.partial(
            PrefetchLoader, mean=info.mean, std=info.std, channels=info.channels, device=device
        )
        self._batches = self._to_device(loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the batches from where `at` says.

        Raises:
            ValueError: a picture cannot be read; names it.
        """
        try:
            yield from self._batches
        except ValueError as error:  # a worker's comes with all its trace
            raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """As `Loader.sample`."""
        index, turn = self._schedule.first(count)
        keys = zip(index.tolist(), turn.tolist(), strict=True)
        batches: Any = [fast_collate(self._draws.__getitems__([(0, *key) for key in keys]))]
        images, labels = next(iter(self._to_device(batches)))
        return images, labels


class _Draws(Dataset[tuple[Tensor, int]]):
    """A split's transformed pictures, uint8 (C, H, W), and labels by (epoch, index, turn)."""

    def __init__(
        self, pictures: Pictures, change: Callable[[Image.Image], Tensor], seed: int, sides: Tensor | None
    ) -> None:
        self._open, self._change, self._seed = pictures.open, change, seed
        # to index a tensor takes ten times as long
        self._index, self._labels = pictures.index.numpy(), pictures.labels.numpy()
        self._sides = None if sides is None else sides.numpy()  # of epoch 0

    def __getitems__(self, keys: Sequence[Key]) -> list[tuple[Tensor, int]]:
        with restored():  # without workers these are the generators that the model draws from
            return [self._drawn(*key) for key in keys]

    def _drawn(self, epoch: int, index: int, turn: int) -> tuple[Tensor, int]:
        picture = self._open(int(self._index[index]))
        reseed(self._seed, epoch, index, turn)
        changed = self._change(picture)
        if self._sides is not None and bool(self._sides[turn, index]) ^ (epoch % 2 == 1):
            changed = changed.flip(2)
        return changed, int(self._labels[index])


def training_transform(
    info: DataInfo, config: DataConfig, augmentation: Augmentation
) -> Callable[[Image.Image], Tensor]:
    """timm's; but for its random crop where there is none: then the centre, shifted by up to `data.crop_padding`.

    It does not flip where `data.flip` is "alternate": what it has made is mirrored then.

    Raises:
        ValueError: timm does not take the augmentation.
    """
    size, interpolation = info.image_size, augmentation.train_interpolation
    flips = config.mirrors and config.flip != ALTERNATE
    arguments: dict[str, Any] = {
        "scale": augmentation.scale,
        "ratio": augmentation.ratio,
        "hflip": 0.5 if flips else 0.0,
        "color_jitter": augmentation.color_jitter,
        "auto_augment": augmentation.aa,
        "interpolation": interpolation,
        "mean": info.mean,
    }
    try:
        crop, change, finish = create_transform(size, is_training=True, use_prefetcher=True, separate=True, **arguments)
    except (AssertionError, ValueError, KeyError) as error:
        raise ValueError(f"train.aa={augmentation.aa}: timm does not take it ({error})") from error
    if not crops(augmentation):
        mode = str_to_interp_mode("bilinear" if interpolation == "random" else interpolation)
        steps = [transforms.Resize(size, interpolation=mode), transforms.CenterCrop(size)]
        steps += [transforms.RandomCrop(size, padding=config.crop_padding)] if config.crop_padding else []
        steps += [transforms.RandomHorizontalFlip()] if flips else []
        crop = transforms.Compose(steps)
    return transforms.Compose([step for part in (crop, change, finish) for step in part.transforms])


def evaluation_transform(info: DataInfo) -> Callable[[Image.Image], Tensor]:
    """timm's, as the backbone's own `pretrained_cfg` or the config have it."""
    return create_transform(
        info.image_size,
        interpolation=info.interpolation,
        crop_pct=info.crop_pct,
        crop_mode=info.crop_mode,
        use_prefetcher=True,
    )


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
