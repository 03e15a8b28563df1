"""Small pictures with objects and detections, and the evaluator that has seen them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from search.data.annotated import Scene, Truth
from search.tasks.judge import CocoEvaluator

CATEGORIES = {2: "cap", 5: "boot", 40: "glove"}
SIDE = 120
Picture = tuple[dict[str, Tensor], Truth]


def pictures(count: int = 12, seed: int = 0, ties: bool = True) -> list[Picture]:
    """Pictures of a few boxes, some crowds, some large, every fourth without any; half of the detections are near an object."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(count):
        rows: list[dict[str, Any]] = []
        for _ in range(0 if number % 4 == 3 else draw.integers(1, 5)):
            x, y, w, h = (*draw.uniform(0, 60, 2).tolist(), *draw.uniform(8, 60, 2).tolist())
            corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            rows.append(
                {
                    "id": len(rows) + 100 * number + 1,
                    "image_id": 3 * number + 11,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "category_id": int(draw.choice(list(CATEGORIES))),
                    "segmentation": corners,
                    "iscrowd": int(draw.random() < 0.1),
                }
            )
        boxes, labels = [], []
        for _ in range(draw.integers(0, 9)):
            x, y, w, h = (*draw.uniform(0, 60, 2), *draw.uniform(8, 60, 2))
            label = int(draw.integers(1, 4))
            if rows and draw.random() < 0.7:
                near = rows[draw.integers(len(rows))]
                x, y, w, h = near["bbox"] + draw.normal(0, 2, 4)
                label = list(CATEGORIES).index(near["category_id"]) + 1
            boxes.append([x, y, x + w, y + h])
            labels.append(label)
        output = {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "scores": torch.tensor(
                draw.choice([0.2, 0.5, 0.7, 0.9], len(boxes)) if ties else draw.random(len(boxes))
            ).float(),
        }
        output["masks"] = (
            torch.stack([filled(box) for box in output["boxes"]]) if boxes else torch.zeros(0, 1, SIDE, SIDE)
        )
        made.append((output, Truth(Scene(3 * number + 11, SIDE, SIDE, rows), CATEGORIES)))
    return made


def filled(box: Tensor) -> Tensor:
    mask = torch.full((1, SIDE, SIDE), 0.5)
    left, top, right, bottom = box.round().int().clamp(0, SIDE).tolist()
    mask[:, top:bottom, left:right] = 0.6
    return mask


def evaluator(
    made: list[Picture], kinds: tuple[str, ...] = ("box", "mask"), backend: str = "pycocotools"
) -> CocoEvaluator:
    """One that took them in, two a batch."""
    scorer = CocoEvaluator(kinds, backend)
    for batch in (made[at : at + 2] for at in range(0, len(made), 2)):
        scorer.update([output for output, _ in batch], [truth for _, truth in batch])
    return scorer
