"""Loaders of pictures with objects in them: each picture in its own size, mirrored together with its boxes and masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import xvol  # noqa: F401  # before timm, where torch is a CPU build: see xvol/timm_hook.py

# isort: split
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import get_pretrained_cfg

from search.data.annotated import AnnotatedSet, Annotation, Scene, Scenes, Target, Truth
from search.data.coco import clipped, is_empty, mask_of
from search.data.config import ALTERNATE, DataConfig, image_size
from search.data.images import DataInfo
from search.data.keyed import key
from search.data.loaders import Loader, Loaders
from search.data.schedule import Key, Keys, Schedule, Scheduled
from search.data.sources import source_of
from search.data.stream import cores

AnnotatedBatch = tuple[list[Tensor], list[Any]]


def annotated_loaders(
    config: DataConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world: int = 1,
    with_test: bool = False,
    masks: bool = False,
    backbone: str = "",
) -> Loaders:
    """Load an annotated source and feed it; see `AnnotatedLoader`.

    Args:
        rank, world: which of how many processes that share each training batch; whoever evaluates reads all.
        with_test: only the final re-evaluation may say True.
        masks: whether masks are learned.
        backbone: timm's name of the network that pictures will be normalised for.

    Raises:
        ValueError: the data cannot be had, or objects have no masks where they are needed.
    """
    config.check()
    data: AnnotatedSet = import_module(source_of(config.name).module).load(config)
    if masks and not data.has_masks:
        _refuse_without_mask(data)
    parts = [data.train, data.val] + ([data.test] if with_test and data.test else [])
    bytes_of_all = sum(3 * scene.height * scene.width for part in parts for scene in part.scenes)
    keeps = bytes_of_all <= config.in_memory_mb * 2**20

    def loader(part: Scenes, training: bool) -> Loader:
        where = {"rank": rank, "world": world} if training else {}
        made: Any = AnnotatedLoader(
            _decoded(part) if keeps else part,
            data.categories,
            replace(config, workers=0) if keeps else config,
            training=training,
            masks=masks,
            seed=seed,
            device=device,
            **where,
        )
        return made

    known = get_pretrained_cfg(backbone) if backbone else None
    info = DataInfo(
        classes=tuple(data.categories.values()),
        channels=3,
        image_size=image_size(config),
        mean=known.mean if known else IMAGENET_DEFAULT_MEAN,
        std=known.std if known else IMAGENET_DEFAULT_STD,
        source=data.source,
        digest=data.digest,
    )
    train, val, *test = [loader(part, training=part is data.train) for part in parts]
    return Loaders(train, val, test[0] if test else None, info)


def _refuse_without_mask(data: AnnotatedSet) -> None:
    for name, part in (("train", data.train), ("val", data.val), ("test", data.test)):
        for scene in part.scenes if part else ():
            for one in scene.annotations:
                if not one["iscrowd"] and not one.get("segmentation"):
                    raise ValueError(
                        f"annotation {one['id']} of picture {scene.id} ({name} of {data.source}) has no segmentation, and masks are "
                        "to be learned. Add it, or take task=detection."
                    )


def _decoded(part: Scenes) -> Scenes:
    pictures = [part.open(index) for index in range(len(part.scenes))]
    return Scenes(part.scenes, pictures.__getitem__)


class AnnotatedLoader(Scheduled):
    """Gives (inputs, targets), a list each: float32 (3, H, W) in [0, 1] on the device, and `Target`, or `Truth` outside training.

    Whether a picture is mirrored hangs on (seed, epoch, index) alone: workers, ranks, and where an epoch begins change nothing.

    Args:
        part: pictures of one split. categories: names by COCO's ids, ascending.
        config: batch sizes, of all ranks together, flip and workers.
        training: shuffle, mirror, and drop the incomplete last batch; otherwise every picture once, in order, as it is.
        masks: whether a target has masks.
        seed: the trial's; of no meaning outside training.
        device: where batches arrive.
        rank, world: which of how many processes that share each batch.

    Attributes:
        labels: int64, those of all objects that are trained on, or would be.

    Raises:
        ValueError: as `Schedule`.
    """

    def __init__(
        self,
        part: Scenes,
        categories: dict[int, str] | Any,
        config: DataConfig,
        *,
        training: bool,
        masks: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        count, batch_size = len(part.scenes), config.batch_size if training else config.eval_batch_size
        super().__init__(Schedule(count, batch_size, training=training, seed=seed, rank=rank, world=world))
        self._scenes, self._categories, self._training = part.scenes, categories, training
        self._label_of = {number: label for label, number in enumerate(categories, start=1)}
        objects = (one for scene in part.scenes for one in objects_of(scene))
        self.labels = torch.tensor([self._label_of[one["category_id"]] for one in objects], dtype=torch.int64)
        self.device, self._masks = torch.device(device), masks and training
        self._pixels = _Pixels(part, self._masks, str(config.flip).lower() if training else "false", seed)
        workers = min(config.workers, cores())
        self._batches: DataLoader[Any] = DataLoader(
            self._pixels,
            batch_sampler=Keys(self._schedule),
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # it draws a seed for the workers, which must not come out of the global generator
            persistent_workers=workers > 0,
        )

    def __iter__(self) -> Iterator[AnnotatedBatch]:
        """Give the batches from where `at` says.

        Raises:
            ValueError: a picture cannot be read; names it.
        """
        try:
            for keys, pixels in self._batches:
                yield self._batch(keys, pixels)
        except ValueError as error:  # a worker's comes with all its trace
            raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error

    def sample(self, count: int) -> AnnotatedBatch:
        """As `Loader.sample`."""
        index, turn = self._schedule.first(count)
        return self._batch(
            *self._pixels.__getitems__([(0, *each) for each in zip(index.tolist(), turn.tolist(), strict=True)])
        )

    def _batch(self, keys: Sequence[Key], pixels: Tensor) -> AnnotatedBatch:
        """Cut the pixels of a batch into pictures and masks, on the device."""
        pixels, inputs, targets = pixels.to(self.device, non_blocking=True), [], list[Any]()
        start = 0
        for epoch, index, _ in keys:
            scene = self._scenes[index]
            shape, area = (scene.height, scene.width), scene.height * scene.width
            picture, start = pixels[start : start + 3 * area].view(3, *shape), start + 3 * area
            inputs.append(picture.float().div_(255))
            if not self._training:
                targets.append(Truth(scene, self._categories))
                continue
            target = self._target(scene, self._pixels.is_mirrored(epoch, index))
            if self._masks:
                count = len(target["labels"])
                target["masks"], start = pixels[start : start + count * area].view(count, *shape), start + count * area
            targets.append(target)
        return inputs, targets

    def _target(self, scene: Scene, mirrored: bool) -> Target:
        objects = objects_of(scene)
        corners = [clipped(one, scene.height, scene.width) for one in objects]
        if mirrored:
            corners = [(scene.width - x2, y1, scene.width - x1, y2) for x1, y1, x2, y2 in corners]
        labels = torch.tensor([self._label_of[one["category_id"]] for one in objects], dtype=torch.int64)
        boxes = torch.tensor(corners, dtype=torch.float32).view(-1, 4)
        return Target(boxes=boxes.to(self.device), labels=labels.to(self.device), image_id=scene.id)


def objects_of(scene: Scene) -> list[Annotation]:
    """What is trained on in a picture: no crowds, and nothing of no area."""
    return [one for one in scene.annotations if not one["iscrowd"] and not is_empty(one, scene.height, scene.width)]


class _Pixels(Dataset[Any]):
    """The pixels of a batch in one row, uint8: of each picture and, behind it, of the masks of its objects.

    One tensor a batch: workers hand over each tensor by an open file, of which a system allows a thousand.
    """

    def __init__(self, part: Scenes, masks: bool, flip: str, seed: int) -> None:
        self._part, self._masks, self._flip, self._seed = part, masks, flip, seed

    def is_mirrored(self, epoch: int, index: int) -> bool:
        """Whether that epoch has the picture of that index mirrored."""
        if self._flip == ALTERNATE:
            return bool((key(self._seed, "side", index) ^ epoch) & 1)
        return self._flip == "true" and bool(key(self._seed, epoch, "flip", index) & 1)

    def __getitems__(self, keys: Sequence[Key]) -> tuple[Sequence[Key], Tensor]:
        rows = []
        for epoch, index, _ in keys:
            scene = self._part.scenes[index]
            planes = [self._part.open(index)]
            if self._masks and (objects := objects_of(scene)):
                planes.append(torch.from_numpy(np.stack([mask_of(one, scene.height, scene.width) for one in objects])))
            mirrored = self.is_mirrored(epoch, index)
            rows += [(plane.flip(2) if mirrored else plane).flatten() for plane in planes]
        return keys, torch.cat(rows)


def _as_it_is(batch: Any) -> Any:
    return batch
