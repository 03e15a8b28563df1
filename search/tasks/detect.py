"""Detection, and instance segmentation: where objects are in a picture, of which class, and with which outline. Judged as COCO does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import torch

import xvol  # noqa: F401  # before timm, where torch is a CPU build: see xvol/timm_hook.py
from xvol import torchvision_ops

# isort: split
from timm.task import TrainingTask
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from search.config import Architecture, Config
from search.data.annotated import Target, Truth
from search.data.annotated_loaders import annotated_loaders, objects_of
from search.data.coco import mask_of
from search.data.images import DataInfo
from search.data.loaders import Loaders
from search.ledger.tracker import Marked, Picture
from search.recipe import TrainConfig
from search.tasks.detector import FixedProposals, Sampler, build_detector
from search.tasks.judge import CocoEvaluator

LEAST_SCORE = 0.5  # of a prediction that pictures show


class Detect:
    """See `search.tasks.base.Task`. Inputs are pictures of any size, float32 (3, H, W) in [0, 1], in a list."""

    masks = False

    def data(
        self, config: Config, splits: Collection[str], device: torch.device, rank: int = 0, world: int = 1
    ) -> Loaders:
        """Loaders of pictures and their objects."""
        return annotated_loaders(
            config.data,
            seed=config.seed,
            device=device,
            rank=rank,
            world=world,
            with_test="test" in splits,
            masks=self.masks,
            backbone=config.backbone.name,
        )

    def model(self, config: Config, info: DataInfo) -> tuple[nn.Module, Architecture]:
        """The detector of `config.detector`."""
        return build_detector(config, info, self.masks)

    def training(self, model: nn.Module, recipe: TrainConfig) -> DetectTraining:
        """The sum of torchvision's losses."""
        return DetectTraining(model)

    def evaluator(self, config: Config, device: torch.device) -> CocoEvaluator:
        """Average precision and recall as COCO has them."""
        return CocoEvaluator(("box", "mask") if self.masks else ("box",), config.measure.coco_backend)

    def measured(self, model: nn.Module, config: Config) -> nn.Module:
        """See `search.tasks.base.MeasuresPart`."""
        return FixedProposals(model, config.detector.proposals, config.detector.detections)

    def pictures(
        self, inputs: Sequence[Tensor], output: Sequence[Mapping[str, Tensor]], target: Sequence[Truth], info: DataInfo
    ) -> list[Picture]:
        """The pictures, with the objects that are in them and those that are seen with a score of `LEAST_SCORE` and more."""
        classes = dict(enumerate(info.classes, start=1))
        return [
            Picture(
                (image.cpu() * 255).round().byte().permute(1, 2, 0).numpy(),
                f"picture {truth.scene.id}",
                {"truth": self._true(truth), "prediction": _seen(found)},
                classes,
            )
            for image, found, truth in zip(inputs, output, target, strict=True)
        ]

    def _true(self, truth: Truth) -> list[Marked]:
        labels = {category: label for label, category in enumerate(truth.categories, start=1)}
        scene, marked = truth.scene, []
        for one in objects_of(scene):
            x, y, width, height = one["bbox"]
            mask = mask_of(one, scene.height, scene.width).astype(bool) if self.masks else None
            marked.append(Marked((x, y, x + width, y + height), labels[one["category_id"]], None, mask))
        return marked

    def probe_input(self, info: DataInfo) -> tuple[int, int, int]:
        """One square picture of the shorter side."""
        return info.channels, info.image_size, info.image_size


def _seen(found: Mapping[str, Tensor]) -> list[Marked]:
    marked = []
    for at in range(int((found["scores"] >= LEAST_SCORE).sum())):  # which descend
        x1, y1, x2, y2 = found["boxes"][at].tolist()
        mask = (found["masks"][at, 0] > 0.5).cpu().numpy() if "masks" in found else None
        marked.append(Marked((x1, y1, x2, y2), int(found["labels"][at]), float(found["scores"][at]), mask))
    return marked


class Segment(Detect):
    """Instance segmentation: detection with masks."""

    masks = True


class DetectTraining(TrainingTask):
    """A detector with its losses. What its samplers draw hangs on the seed, epoch and step of a training alone, in every arm alike.

    Args:
        model: of `build_detector`, on the device of the pictures.
    """

    def __init__(self, model: nn.Module) -> None:
        torchvision_ops.install()  # a rank is given its detector, and builds none
        super().__init__(device=next(model.parameters()).device, verbose=False)
        self.trainable_module = model
        parts: Any = (getattr(model, name, None) for name in ("rpn", "roi_heads"))
        self._samplers: list[Sampler] = [part.fg_bg_sampler for part in parts if part is not None]

    def prepare_distributed(self, device_ids: list[Any] | None = None, **ddp_kwargs: Any) -> DetectTraining:
        """Wrap the detector in torch's DistributedDataParallel."""
        self.trainable_module = DistributedDataParallel(self.trainable_module, device_ids=device_ids, **ddp_kwargs)
        return self

    def forward(self, input: Sequence[Tensor], target: Sequence[Target]) -> dict[str, Tensor]:  # type: ignore[override]  # not tensors
        """The sum of the losses as "loss", and each by torchvision's name, for a batch of pictures and what is in them."""
        # drawn before anything else of the part, so it hangs on what the trainer has seeded for it alone
        seed = int(torch.randint(2**62, ()))
        for number, sampler in enumerate(self._samplers):
            sampler.reseed(seed + number)
        losses = cast(dict[str, Tensor], self.trainable_module(list(input), list(target)))
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}
