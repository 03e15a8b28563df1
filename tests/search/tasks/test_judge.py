"""Detections are scored as pycocotools scores them by hand, whatever the backend, and what was found is kept."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from search.data.annotated import Scene, Truth
from search.ledger.matches import read_matches
from search.ledger.metric import DETECTION, INSTANCES, metrics_of
from search.tasks.base import Diverged, WritesFiles
from search.tasks.judge import AT, IOU_TYPE, CocoEvaluator

from .detections import CATEGORIES, SIDE, Picture, evaluator, pictures


def by_hand(made: list[Picture], predictions: Path, kind: str) -> dict[str, float | None]:
    """What pycocotools says of a file of predictions."""
    scenes = [truth.scene for _, truth in made]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": scene.id, "height": scene.height, "width": scene.width} for scene in scenes],
            "annotations": [dict(row) for scene in scenes for row in scene.annotations],
            "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
        }
        truth.createIndex()
        rows = json.loads(predictions.read_text())
        if kind == "mask":
            rows = [{name: value for name, value in row.items() if name != "bbox"} for row in rows]
        judge = COCOeval(truth, truth.loadRes(rows), IOU_TYPE[kind])
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {f"{kind}_{name}": None if judge.stats[at] < 0 else 100 * judge.stats[at] for name, at in AT.items()}


@pytest.mark.parametrize("backend", ["pycocotools", "faster"])
def test_the_numbers_are_those_of_pycocotools_on_what_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    made = pictures()
    scorer = evaluator(made, backend=backend)
    metrics = scorer.compute()
    assert isinstance(scorer, WritesFiles)
    scorer.write(tmp_path, "val")
    assert capsys.readouterr() == ("", "")
    assert list(metrics) == [
        metric.name for kind in ("box", "mask") for metric in metrics_of(INSTANCES) if metric.name.startswith(kind)
    ]
    by_files = by_hand(made, tmp_path / "predictions.json", "box") | by_hand(
        made, tmp_path / "predictions.json", "mask"
    )
    assert metrics == pytest.approx(by_files, abs=1e-9)
    assert 0 < (metrics["mask_ap"] or 0) < 100
    assert metrics["box_ap_small"] != metrics["mask_ap_small"]


def test_metrics_of_detection() -> None:
    made = pictures()
    boxes = evaluator(made, kinds=("box",)).compute()
    assert list(boxes) == [metric.name for metric in metrics_of(DETECTION)]
    assert boxes == {name: value for name, value in evaluator(made).compute().items() if name.startswith("box")}
    with pytest.raises(ValueError, match="rank 0 evaluates alone"):
        evaluator(made).compute(distributed=True)


@pytest.mark.parametrize("backend", ["pycocotools", "faster"])
def test_what_is_not_there(tmp_path: Path, backend: str) -> None:
    """No detection at all is 0; no object of a size is nothing to score."""
    made = [({name: value[:0] for name, value in output.items()}, truth) for output, truth in pictures()]
    scorer = evaluator(made, backend=backend)
    metrics = scorer.compute()
    assert (metrics["box_ap"], metrics["mask_ap"], metrics["box_ar100"], metrics["box_ap_large"]) == (0, 0, 0, None)
    scorer.write(tmp_path, "test")
    assert json.loads((tmp_path / "predictions_test.json").read_text()) == []
    matches = read_matches(tmp_path / "matches_test.npz", "mask")
    assert matches is not None
    assert (matches.matched.shape, matches.objects.sum() > 0) == ((10, 0), True)
    empty = [(output, Truth(Scene(truth.scene.id, SIDE, SIDE, []), CATEGORIES)) for output, truth in pictures()]
    assert set(evaluator(empty, backend=backend).compute().values()) == {None}


@pytest.mark.parametrize("name", ["boxes", "scores"])
def test_what_is_not_finite_has_diverged(name: str) -> None:
    output, truth = pictures()[0]
    with pytest.raises(Diverged, match="box or score is not finite"):
        CocoEvaluator().update([output | {name: output[name] / 0.0}], [truth])


def test_an_object_numbered_0_is_found_as_any_other() -> None:
    """pycocotools by itself takes who found it for one that found nothing."""
    row = {"id": 0, "image_id": 1, "category_id": 2, "bbox": [10.0, 10.0, 40.0, 40.0], "area": 1600.0}
    output = {"boxes": torch.tensor([[10.0, 10, 50, 50]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    metrics = evaluator([(output, Truth(Scene(1, SIDE, SIDE, [row]), CATEGORIES))], kinds=("box",)).compute()
    assert metrics["box_ap"] == pytest.approx(100)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools where it decodes
def test_masks_are_written_as_run_lengths_of_what_is_above_a_half(tmp_path: Path) -> None:
    made = pictures()
    evaluator(made).write(tmp_path, "val")
    rows = json.loads((tmp_path / "predictions.json").read_text())
    masks = [mask[0] > 0.5 for output, _ in made for mask in output["masks"]]
    assert len(rows) == len(masks) > 10
    for row, mask in zip(rows, masks, strict=True):
        assert np.array_equal(rle.decode(row["segmentation"]).astype(bool), mask.numpy())


def test_matches_say_what_was_found_at_which_overlap(tmp_path: Path) -> None:
    """Of two detections of one object the surer counts, as far as it overlaps; one of a crowd counts neither way."""
    rows = [
        {"id": 7, "image_id": 1, "category_id": 5, "bbox": [0.0, 0.0, 20.0, 20.0], "area": 400.0, "iscrowd": 0},
        {"id": 8, "image_id": 1, "category_id": 5, "bbox": [60.0, 60.0, 40.0, 40.0], "area": 1600.0, "iscrowd": 1},
    ]
    output = {
        "boxes": torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 14], [70, 70, 90, 90], [0, 0, 20, 20]]),
        "labels": torch.tensor([2, 2, 2, 1]),
        "scores": torch.tensor([0.5, 0.75, 0.25, 1.0]),
    }
    made = [(output, Truth(Scene(1, SIDE, SIDE, rows), CATEGORIES)), (pictures()[3])]
    evaluator(made, kinds=("box",)).write(tmp_path, "val")
    matches = read_matches(tmp_path / "matches.npz", "box")
    assert matches is not None
    assert matches.pictures.tolist() == [1, 20]
    assert matches.categories.tolist() == ["cap", "boot", "glove"]
    assert matches.objects.tolist() == [[0, 1, 0], [0, 0, 0]]
    first = matches.picture == 0
    assert matches.category[first].tolist() == [0, 1, 1, 1]
    assert matches.score[first].tolist() == [1.0, 0.75, 0.5, 0.25]
    assert matches.matched[:, first].sum(0).tolist() == [0, 5, 5, 10]  # 0.5 to 0.7, 0.75 to 0.95, and the crowd
    assert matches.ignored[:, first].sum(0).tolist() == [0, 0, 0, 10]
    assert read_matches(tmp_path / "matches_test.npz", "box") is None
    (tmp_path / "matches.npz").write_bytes((tmp_path / "matches.npz").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"matches\.npz cannot be read"):
        read_matches(tmp_path / "matches.npz", "box")


@pytest.mark.parametrize("backend", ["pycocotools", "faster"])
def test_matches_are_the_same_bytes_whether_they_were_scored_before_or_more_was_taken_in(
    tmp_path: Path, backend: str
) -> None:
    files = []
    for name, scored_after in (("never", ()), ("whole", (len(pictures()),)), ("half", (1, len(pictures())))):
        scorer, folder = CocoEvaluator(("box", "mask"), backend), tmp_path / name
        for number, (output, truth) in enumerate(pictures(), start=1):
            scorer.update([output], [truth])
            if number in scored_after:
                scorer.compute()
        folder.mkdir()
        scorer.write(folder, "val")
        files.append((folder / "matches.npz").read_bytes())
    assert files[0] == files[1] == files[2]
