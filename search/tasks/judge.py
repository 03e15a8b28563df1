"""Scores detections as COCO does, with pycocotools or with faster-coco-eval, and keeps what every trial found."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from search.data.annotated import Scene, Truth
from search.ledger.files import write_atomic
from search.ledger.matches import FILES, PREDICTIONS, Matches, write_matches
from search.recipe import COCO_BACKENDS
from search.tasks.base import Diverged

IOU_TYPE = {"box": "bbox", "mask": "segm"}
AT = {"ap": 0, "ap50": 1, "ap75": 2, "ap_small": 3, "ap_medium": 4, "ap_large": 5, "ar100": 8}  # in COCO's summary


class CocoEvaluator:
    """COCO's average precision and recall of boxes, and of masks; writes `predictions.json` and `matches.npz` (see `search.tasks.base`).

    Args:
        kinds: ("box",) or ("box", "mask").
        backend: see `MeasureConfig.coco_backend`; what is written is of pycocotools with both.
    """

    def __init__(self, kinds: Sequence[str] = ("box",), backend: str = "pycocotools") -> None:
        self._kinds, self._backend = tuple(kinds), backend
        self._scenes: list[Scene] = []
        self._categories: Mapping[int, str] = {}
        self._found: list[dict[str, Any]] = []  # in COCO's results format
        self._matched: dict[str, Any] = {}  # by kind, what pycocotools has matched of all that was taken in

    def update(self, output: Sequence[Mapping[str, Tensor]], target: Sequence[Truth]) -> None:
        """Take in a batch of pictures.

        Args:
            output: for each picture boxes float32 (n, 4) as x1, y1, x2, y2 in its pixels, labels int64 (n,) from 1, scores float32 (n,);
                with masks also `masks`, float32 (n, 1, H, W), of which what is above 0.5 counts.
            target: what is true of each.

        Raises:
            Diverged: a box or score is not finite.
        """
        self._matched.clear()
        for found, truth in zip(output, target, strict=True):
            boxes, scores = (found[name].detach().double().cpu() for name in ("boxes", "scores"))
            if not bool(torch.isfinite(boxes).all() and torch.isfinite(scores).all()):
                raise Diverged("diverged: a box or score is not finite in evaluation")
            self._scenes.append(truth.scene)
            self._categories = truth.categories
            ids = list(truth.categories)
            boxes[:, 2:] -= boxes[:, :2]
            rows = [
                {"image_id": truth.scene.id, "category_id": ids[label - 1], "bbox": box, "score": score}
                for label, box, score in zip(found["labels"].tolist(), boxes.tolist(), scores.tolist(), strict=True)
            ]
            if "mask" in self._kinds and rows:
                for row, segmentation in zip(rows, _encoded(found["masks"]), strict=True):
                    row["segmentation"] = segmentation
            self._found += rows

    def compute(self, distributed: bool = False) -> dict[str, float | None]:
        """The metrics by name in percent; None where there is no object that they are of."""
        if distributed:
            raise ValueError("detections are scored where all of them are: rank 0 evaluates alone")
        metrics: dict[str, float | None] = {}
        for kind in self._kinds:
            with contextlib.redirect_stdout(io.StringIO()):  # which is where pycocotools tells of its progress
                judged = self._judge(kind, self._backend)
                judged.evaluate()
                judged.accumulate()
                judged.summarize()
            if self._backend == "pycocotools":
                self._matched[kind] = judged
            stats = {name: float(judged.stats[at]) for name, at in AT.items()}
            metrics |= {f"{kind}_{name}": None if value < 0 else 100 * value for name, value in stats.items()}
        return metrics

    def write(self, folder: Path, split: str) -> None:
        """Write the predictions of the split, and their matches, to the trial's folder."""
        write_atomic(folder / PREDICTIONS[split], json.dumps(self._found))
        write_matches(folder / FILES[split], {kind: self._matches(kind) for kind in self._kinds})

    def _matches(self, kind: str) -> Matches:
        judged = self._matched.get(kind)
        if judged is None:
            with contextlib.redirect_stdout(io.StringIO()):
                judged = self._judge(kind, "pycocotools")
                judged.params.areaRng, judged.params.areaRngLbl = (
                    judged.params.areaRng[:1],
                    judged.params.areaRngLbl[:1],
                )
                judged.evaluate()
        pictures, categories, areas = judged.params.imgIds, judged.params.catIds, len(judged.params.areaRng)
        objects = np.zeros((len(pictures), len(categories)), dtype=np.int64)
        places, scores, matched, ignored = [], [np.zeros(0)], [np.zeros((10, 0))], [np.zeros((10, 0))]
        for at, found in enumerate(
            judged.evalImgs
        ):  # by category, then by area, of which "all" is the first, then by picture
            of_category, of_area = divmod(at // len(pictures), areas)
            if found is None or of_area:
                continue
            place = (at % len(pictures), of_category)
            objects[place] = np.count_nonzero(found["gtIgnore"] == 0)
            places += [place] * len(found["dtScores"])
            scores.append(np.asarray(found["dtScores"], dtype=float))
            matched.append(found["dtMatches"] > 0)
            ignored.append(found["dtIgnore"])
        picture, category = np.array(places, dtype=np.int64).reshape(-1, 2).T
        return Matches(
            pictures=np.array(pictures, dtype=np.int64),
            categories=np.array([self._categories[each] for each in categories], dtype=str),
            picture=picture,
            category=category,
            score=np.concatenate(scores),
            matched=np.concatenate(matched, axis=1).astype(bool),
            ignored=np.concatenate(ignored, axis=1).astype(bool),
            objects=objects,
        )

    def _judge(self, kind: str, backend: str) -> Any:
        """What compares the detections of one kind with the truth."""
        index, judge, options = COCO, COCOeval, {}
        if backend != "pycocotools":
            index, judge = (resolve_name(f"{COCO_BACKENDS[backend]}:{name}") for name in ("COCO", "COCOeval_faster"))
            options = {"print_function": lambda *_: None, "rle_iou_max_workers": 1}
        # where a row has a box too, the area of a mask would be taken to be that of the box
        left_out = "bbox" if kind == "mask" else "segmentation"
        rows = [{name: value for name, value in row.items() if name != left_out} for row in self._found]
        truth = _indexed(index, self._dataset())
        found = truth.loadRes(rows) if rows else _indexed(index, self._dataset() | {"annotations": []})
        return judge(truth, found, IOU_TYPE[kind], **options)

    def _dataset(self) -> dict[str, Any]:
        """The truth as a COCO file has it. Objects are numbered anew: pycocotools takes the number 0 for no object."""
        annotations = [{"iscrowd": 0, **annotation} for scene in self._scenes for annotation in scene.annotations]
        return {
            "images": [{"id": scene.id, "height": scene.height, "width": scene.width} for scene in self._scenes],
            "categories": [{"id": each, "name": name} for each, name in self._categories.items()],
            "annotations": [annotation | {"id": number} for number, annotation in enumerate(annotations, 1)],
        }


def _indexed(index: Any, dataset: dict[str, Any]) -> Any:
    coco = index()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _encoded(masks: Tensor) -> list[dict[str, Any]]:
    """Run lengths of the masks (n, 1, H, W) where they are above 0.5, `counts` as text."""
    pixels = (masks[:, 0] > 0.5).to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()
    return [
        {"size": [int(side) for side in each["size"]], "counts": each["counts"].decode("ascii")}
        for each in rle.encode(pixels.transpose(2, 1, 0))  # columns first, as it asks for
    ]
