import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from search.data.annotated import Truth
from search.data.annotated_loaders import AnnotatedLoader, annotated_loaders
from search.data.coco import annotation, read
from search.data.config import DataConfig
from search.data.loaders import Loaders

COUNT, SIDES = 14, (9, 12)
Batches = list[tuple[list[Any], list[Any]]]


def rectangle(top: int, left: int, height: int, width: int, sides: tuple[int, int] = SIDES) -> np.ndarray:
    mask = np.zeros(sides, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 pictures of noise of several sizes, none to two objects in each; one has a crowd too, one an object of no area."""
    folder = tmp_path_factory.mktemp("coco")
    noise, images, annotations = np.random.default_rng(1), [], list[dict[str, Any]]()
    for number in range(COUNT):
        sides = (SIDES[0] + number % 3, SIDES[1])
        Image.fromarray(noise.integers(0, 256, (*sides, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        images.append({"id": 100 + number, "file_name": f"{number}.png", "height": sides[0], "width": sides[1]})
        for place in range(number % 3):
            mask = rectangle(1 + place, number % 5, 3 + place, 2, sides)
            annotations.append(annotation(len(annotations), 100 + number, 4 + 3 * place, mask))
    annotations.append({**annotation(90, 101, 4, rectangle(0, 0, 9, 9, (10, 12))), "iscrowd": 1})
    annotations.append({**annotation(91, 102, 4, rectangle(0, 0, 1, 1, (11, 12))), "bbox": [3, 3, 0, 2]})
    categories = [{"id": 7, "name": "bird"}, {"id": 4, "name": "cat"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "all.json").write_text(json.dumps(content))
    return folder


def configured(folder: Path, **changes: Any) -> DataConfig:
    config = DataConfig("coco", path=str(folder), train="all.json", image_size=9, batch_size=3, eval_batch_size=2)
    return replace(
        config, **{"flip": True, "empty_boxes": "skip", "workers": 0, "val_size": 2, "test_size": 2, **changes}
    )


def made(folder: Path, seed: int = 1, ranks: dict[str, int] | None = None, **changes: Any) -> Loaders:
    return annotated_loaders(configured(folder, **changes), seed=seed, masks=True, **(ranks or {}))


def taken(loader: Any, epoch: int = 1, step: int = 0) -> Batches:
    return list(loader.at(epoch, step))


def equal(one: Batches, other: Batches) -> bool:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)

    def flat(batches: Batches) -> list[list[Any]]:
        return [[*inputs, *targets] for inputs, targets in batches]

    ours, theirs = flat(one), flat(other)
    return [len(batch) for batch in ours] == [len(batch) for batch in theirs] and all(
        same(a, b) for mine, yours in zip(ours, theirs, strict=True) for a, b in zip(mine, yours, strict=True)
    )


@pytest.fixture(scope="module")
def expected(folder: Path) -> Batches:
    """An epoch that is kept in memory."""
    return taken(made(folder).train)


def test_a_batch_is_two_lists(folder: Path, expected: Batches) -> None:
    assert [len(inputs) for inputs, _ in expected] == [3, 3, 3]
    for inputs, targets in expected:
        for picture, target in zip(inputs, targets, strict=True):
            number = target["image_id"] - 100
            assert picture.shape == (3, SIDES[0] + number % 3, SIDES[1])
            assert picture.dtype == torch.float32
            objects = number % 3
            assert target["boxes"].shape == (objects, 4)
            assert target["labels"].tolist() == list(range(1, objects + 1))  # no crowd, and none without area
            assert target["masks"].shape == (objects, *picture.shape[1:])
            kinds = [target[key].dtype for key in ("boxes", "labels", "masks")]
            assert kinds == [torch.float32, torch.int64, torch.uint8]
            file = np.asarray(Image.open(folder / f"{number}.png")).transpose(2, 0, 1)
            pixels = (picture * 255).round().byte().numpy()
            assert (pixels == file).all() or (pixels == file[:, :, ::-1]).all()


def test_evaluation_is_as_it_lies_there(folder: Path) -> None:
    loaders = annotated_loaders(configured(folder), seed=1, with_test=True)
    assert loaders.test is not None
    for loader in (loaders.val, loaders.test):
        (inputs, targets), *_ = taken(loader)
        assert loader.samples == len(inputs) == 2
        for picture, truth in zip(inputs, targets, strict=True):
            assert isinstance(truth, Truth)
            assert truth.categories == {4: "cat", 7: "bird"}
            file = np.asarray(Image.open(folder / f"{truth.scene.id - 100}.png"))
            assert torch.equal(picture, torch.from_numpy(file.transpose(2, 0, 1).copy()).float() / 255)
    assert annotated_loaders(configured(folder), seed=1).test is None


def test_what_is_known_of_the_data(folder: Path) -> None:
    loaders = made(folder)
    assert loaders.info.classes == ("cat", "bird")
    assert (loaders.info.channels, loaders.info.image_size) == (3, 9)
    assert loaders.info.mean == pytest.approx((0.485, 0.456, 0.406))
    inception = annotated_loaders(configured(folder), seed=0, backbone="inception_v4").info
    assert inception.mean == (0.5, 0.5, 0.5)
    whole = annotated_loaders(configured(folder, val_size=1, test_size=1), seed=0, with_test=True)
    labels = [loader.labels for loader in (whole.train, whole.val, whole.test) if loader]
    assert torch.cat(labels).bincount().tolist() == [0, 9, 4]


@pytest.mark.parametrize(
    "changes",
    [{"in_memory_mb": 0}, {"in_memory_mb": 0, "workers": 1}, {"in_memory_mb": 0, "workers": 2}, {"eval_batch_size": 1}],
)
def test_memory_and_workers_change_nothing_from_any_step(
    folder: Path, expected: Batches, changes: dict[str, int]
) -> None:
    loader = made(folder, **changes).train
    for step in (0, 2):
        assert equal(taken(loader, 1, step), expected[step:])
    assert not equal(taken(loader, 2), expected)
    for _ in loader.at(3):
        break
    assert equal(taken(loader), expected)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_see_what_one_does(folder: Path, expected: Batches, world: int) -> None:
    loaders = [made(folder, ranks={"rank": rank, "world": world}) for rank in range(world)]
    for rank, each in enumerate(loaders):
        shares = [(inputs[rank::world], targets[rank::world]) for inputs, targets in expected]
        assert equal(taken(each.train), shares)
    samples = [each.train.sample(3) for each in loaders]
    assert all(equal([sample], [samples[0]]) for sample in samples)  # type: ignore[list-item]
    assert [each.val.samples for each in loaders] == [2] * world  # whoever evaluates reads all


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1))
def test_whatever_was_drawn_before(folder: Path, expected: Batches, seed: int) -> None:
    torch.manual_seed(seed), random.seed(seed), np.random.seed(seed % 2**32)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert equal(taken(made(folder).train, 1, 1), expected[1:])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


def mirrored(loader: AnnotatedLoader | Any, epoch: int) -> list[bool]:
    return [loader._pixels.is_mirrored(epoch, index) for index in range(1000)]


def test_half_is_mirrored_by_seed_and_epoch(folder: Path) -> None:
    first = mirrored(made(folder).train, 0)
    assert 400 < sum(first) < 600
    assert mirrored(made(folder).train, 0) == first
    assert mirrored(made(folder).train, 1) != first != mirrored(made(folder, seed=2).train, 0)
    assert not any(mirrored(made(folder, flip=False).train, 0) + mirrored(made(folder).val, 0))
    sides = made(folder, flip="alternate").train
    assert 400 < sum(mirrored(sides, 0)) < 600
    assert mirrored(sides, 0) == mirrored(sides, 2) == [not side for side in mirrored(sides, 1)]


@st.composite
def rectangles(draw: st.DrawFn) -> list[np.ndarray]:
    def one() -> np.ndarray:
        top, left = draw(st.integers(0, SIDES[0] - 1)), draw(st.integers(0, SIDES[1] - 1))
        return rectangle(top, left, draw(st.integers(1, 9)), draw(st.integers(1, 12)))

    return [one() for _ in range(draw(st.integers(1, 4)))]


@settings(deadline=None)
@given(rectangles(), st.integers(0, 1000))
def test_picture_boxes_and_masks_are_mirrored_together(
    tmp_path_factory: Any, masks: list[np.ndarray], seed: int
) -> None:
    """The box of each mask is its box, and the picture, which shows the first mask, shows it, in whichever epoch."""
    folder = tmp_path_factory.mktemp("law")
    Image.fromarray(np.repeat(masks[0][:, :, None], 3, axis=2).astype(np.uint8) * 255).save(folder / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": SIDES[0], "width": SIDES[1]}],
        "annotations": [annotation(number, 1, 1, mask) for number, mask in enumerate(masks)],
        "categories": [{"id": 1, "name": "box"}],
    }
    (folder / "a.json").write_text(json.dumps(content))
    found = read(folder / "a.json", folder)
    config = configured(folder, batch_size=1)
    loader = AnnotatedLoader(found.take([0]), found.categories, config, training=True, masks=True, seed=seed)
    for epoch in range(4):
        [([picture], [target])] = taken(loader, epoch)
        for box, mask in zip(target["boxes"].tolist(), target["masks"], strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert torch.equal(picture[0].byte(), target["masks"][0])
        first = torch.from_numpy(masks[0]).byte()
        expected = first.flip(1) if loader._pixels.is_mirrored(epoch, 0) else first
        assert torch.equal(target["masks"][0], expected)


def test_masks_that_are_to_be_learned_and_are_not_there(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "all.json").read_text())
    content["annotations"][3].pop("segmentation")
    for file in folder.glob("*.png"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "all.json").write_text(json.dumps(content))
    assert "masks" not in annotated_loaders(configured(tmp_path), seed=1).train.sample(1)[1][0]
    with pytest.raises(
        ValueError, match=r"annotation 3 of picture 104 .* of all\.json in .*no segmentation.*task=detection"
    ):
        made(tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_refused_by_name(folder: Path, tmp_path: Path, workers: int) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 60 if file.name == "3.png" else None])
    changes = {"workers": workers, "in_memory_mb": 0, "val_size": 1, "test_size": 1, "batch_size": 12}
    with pytest.raises(ValueError, match=r"^\S*3\.png cannot be read as a picture"):
        taken(made(tmp_path, **changes).train)


def test_more_than_there_is_cannot_be_a_batch(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size=11 cannot be had from 10"):
        made(folder, batch_size=11)
