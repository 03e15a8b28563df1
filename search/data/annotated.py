"""Pictures with objects in them, in COCO's terms: what sources of detection give, and what their loaders hand out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from torch import Tensor

# as in a COCO file: id, image_id, category_id, bbox (x, y, w, h), area, iscrowd, segmentation
Annotation = Mapping[str, Any]


@dataclass(frozen=True)
class Scene:
    """One picture of a COCO file.

    Attributes:
        id: COCO's.
        height, width: in pixels.
        annotations: all of them, crowds included; none where the picture holds no object.
    """

    id: int
    height: int
    width: int
    annotations: Sequence[Annotation]


@dataclass(frozen=True)
class Scenes:
    """The pictures of one part; `open` gives the one of an index, uint8 (3, H, W), and ValueError with its name where it cannot be read."""

    scenes: Sequence[Scene]
    open: Callable[[int], Tensor]


@dataclass(frozen=True)
class AnnotatedSet:
    """A whole data set.

    Attributes:
        train, val, test: its parts; no two share a picture.
        categories: names by COCO's ids, which may have gaps, ascending. The label of the k-th is k, from 1; 0 is the background.
        source: where the pictures came from, in words.
        digest: ten hexadecimal digits over all that a trial is given of it.
        has_masks: whether every object that is no crowd has a segmentation.
    """

    train: Scenes
    val: Scenes
    test: Scenes | None
    categories: Mapping[int, str]
    source: str
    digest: str
    has_masks: bool


class Target(TypedDict):
    """What is trained on in one picture: its objects but for crowds and such of no area, n of them.

    Attributes:
        boxes: float32 (n, 4), x1, y1, x2, y2 in pixels. labels: int64 (n,), from 1.
        masks: uint8 (n, H, W), of a task that learns them.
        image_id: COCO's.
    """

    boxes: Tensor
    labels: Tensor
    masks: NotRequired[Tensor]
    image_id: int


@dataclass(frozen=True)
class Truth:
    """What an evaluator is given of one picture, in its own pixels; `categories` are those of the `AnnotatedSet`."""

    scene: Scene
    categories: Mapping[int, str]
