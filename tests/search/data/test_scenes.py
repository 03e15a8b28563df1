import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images

from search.data import published, scenes
from search.data.annotated import AnnotatedSet, Scenes
from search.data.coco import mask_of
from search.data.config import DataConfig
from search.data.images import ImageSet
from search.data.scenes import load

FEW = {"train_size": 12, "val_size": 6, "test_size": 6}


def parts_of(data: AnnotatedSet) -> list[Scenes]:
    assert data.test is not None
    return [data.train, data.val, data.test]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return DataConfig("digit_scenes", root=str(tmp_path_factory.mktemp("data")), **FEW)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(config: DataConfig) -> AnnotatedSet:
    return load(config)


def test_scenes_are_coco(made: AnnotatedSet) -> None:
    assert [len(part.scenes) for part in parts_of(made)] == [12, 6, 6]
    assert list(made.categories.items()) == [(number + 1, str(number)) for number in range(10)]
    assert made.has_masks
    assert_objects_fit(made, side=64)


def assert_objects_fit(made: AnnotatedSet, side: int) -> None:
    """Pictures have that side, few objects, and of two objects at one pixel one is in front."""
    for part in parts_of(made):
        for index, scene in enumerate(part.scenes):
            assert part.open(index).shape == (3, scene.height, scene.width) == (3, side, side)
            assert len(scene.annotations) <= scenes.MOST
            masks = [mask_of(one, side, side) for one in scene.annotations]
            assert sum(masks).max(initial=0) <= 1, "of two objects one is in front"  # type: ignore[union-attr]
            assert all(mask.sum() == one["area"] for mask, one in zip(masks, scene.annotations, strict=True))


def test_a_scene_hangs_on_its_number_and_the_seed(config: DataConfig, made: AnnotatedSet, tmp_path: Path) -> None:
    more = load(replace(config, root=str(tmp_path), train_size=14))
    for index in range(12):
        assert more.train.scenes[index] == made.train.scenes[index]
        assert torch.equal(more.train.open(index), made.train.open(index))
    assert more.digest != made.digest
    assert load(replace(config, root=str(tmp_path), split_seed=1)).digest != made.digest


@pytest.mark.skipif(PIL.__version__ != "13.0.0", reason="another release of Pillow may give other pixels")
def test_the_digest_is_that_of_every_machine(made: AnnotatedSet) -> None:
    assert made.digest == "cd7a53e00f"


def files_of(root: str | Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(root).rglob("*") if path.is_file()}


def test_they_are_made_once(config: DataConfig, made: AnnotatedSet) -> None:
    before = files_of(config.root)
    assert load(config).digest == made.digest
    assert files_of(config.root) == before


@pytest.mark.parametrize("what", ["train/00003.png", "val.json", "manifest.json"])
def test_what_is_damaged_is_made_again(
    config: DataConfig, made: AnnotatedSet, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(config.root, tmp_path, dirs_exist_ok=True)
    file = next(tmp_path.rglob(what))
    whole = file.read_bytes()
    file.write_bytes(whole[:30])
    again = load(replace(config, root=str(tmp_path)))
    assert "are damaged" in caplog.text
    assert again.digest == made.digest
    assert file.read_bytes() == whole


def test_what_was_left_half_way_is_not_taken(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at its second scene."""
    unbroken, calls = scenes.scene, iter(range(9))

    def broken(*arguments: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return unbroken(*arguments)

    monkeypatch.setattr(scenes, "scene", broken)
    with pytest.raises(KeyboardInterrupt):
        load(replace(config, root=str(tmp_path)))
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.png"))
    assert len(load(replace(config, root=str(tmp_path))).train.scenes) == 12


@given(st.integers(0, 500), st.integers(0, 2**32 - 1))
def test_no_part_shares_what_is_shared_out(count: int, seed: int) -> None:
    drawn = scenes.shared_out(count, seed)
    assert sorted(np.concatenate(list(drawn.values())).tolist()) == list(range(count))
    assert list(drawn) == ["train", "val", "test"]


def test_regions_of_the_two_photographs_do_not_overlap(config: DataConfig, tmp_path: Path) -> None:
    """Put side by side they are the photograph again, so no pixel of it is in two."""
    parts, _ = scenes._two_photographs(config, tmp_path)
    for number, whole in enumerate(load_sample_images().images):
        train, val, test = (np.asarray(parts[part][number]) for part in ("train", "val", "test"))
        np.testing.assert_array_equal(np.hstack([train, np.vstack([val, test])]), whole)


def stand_in(_: DataConfig) -> ImageSet:
    """60 and 12 garments: rings of a brightness of their own, so that each is another cut-out."""
    images = torch.zeros(72, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 6:22, 8:20] = torch.arange(100, 172, dtype=torch.uint8).view(-1, 1, 1, 1)
    images[:, :, 10:18, 11:17] = 0
    labels = torch.arange(72) % 10
    return ImageSet(images, labels, published.FASHION_MNIST.classes, "a stand-in", official_test=12)


def test_garments_are_cut_out_with_what_they_enclose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "load", stand_in)
    config = DataConfig("garment_scenes", root=str(tmp_path), **FEW)  # type: ignore[arg-type]
    parts, _ = scenes._garments(config)
    kept = {part: {int(image.max()) for image in things.images} for part, things in parts.items()}
    assert [len(each) for each in kept.values()] == [50, 10, 12]
    assert len(set.union(*kept.values())) == 72
    assert kept["test"] == set(range(160, 172))  # the official one
    cut = np.asarray(scenes._cut_garment(parts["val"].images[0], np.random.RandomState(0)))
    assert (cut[4:-4, 4:-4, 3] == 255).all()
    made = load(config)
    assert made.train.open(0).shape == (3, 128, 128)
    assert made.categories[10] == "Ankle boot"


def test_photographs_of_packages(config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are fetched as packages, or taken from where they lie; which they were is said, and is in the digest."""
    monkeypatch.setattr(published, "load", stand_in)
    names = [f"{number}.png" for number in range(10)]
    monkeypatch.setattr(scenes, "PHOTOGRAPHS", {"walls": names})
    asked = []

    def run(command: tuple[str, ...], folder: Path) -> None:
        asked.append(command)
        (folder / "walls_1.deb").touch()

    def unpack(archive: Path, folder: Path) -> None:
        (folder / "usr/share").mkdir(parents=True)
        for number, name in enumerate(names):
            Image.new("RGB", (700, 800), (number * 20,) * 3).save(folder / "usr/share" / name)

    monkeypatch.setattr(published, "run", run)
    monkeypatch.setattr(published, "unpack", unpack)
    config = DataConfig("garment_scenes", root=str(tmp_path / "a"), backgrounds="packages", **FEW)  # type: ignore[arg-type]
    made = load(config)
    assert asked == [("apt-get", "download", "walls")]
    assert "packages walls" in made.source
    assert made.digest != load(replace(config, backgrounds="sklearn")).digest
    parts, _ = scenes._packaged_photographs(config, tmp_path)
    levels = [{photograph.getpixel((0, 0)) for photograph in part} for part in parts.values()]
    assert [len(part) for part in levels] == [6, 2, 2]
    assert len(set.union(*levels)) == 10
    assert {min(photograph.size) for part in parts.values() for photograph in part} == {scenes.PHOTO_SIDE}
    absent = replace(config, root=str(tmp_path / "b"), download=False)
    with pytest.raises(ValueError, match=r"needs walls_\*\.deb in .*backgrounds.*data\.backgrounds=sklearn"):
        load(absent)
    (tmp_path / "b" / "backgrounds").mkdir(parents=True)
    (tmp_path / "b" / "backgrounds" / "walls_2.deb").touch()
    assert load(absent).digest == made.digest


def test_an_object_of_which_less_than_a_third_is_seen_is_dropped(config: DataConfig) -> None:
    """Squares of one size on a grey wall: what the annotations have is what is seen of them, and enough of it."""
    square = Image.fromarray(np.full((20, 20, 4), 255, dtype=np.uint8))
    kind = scenes.Kind(("square",), scenes._digits, lambda pixels, random: square, (0.5, 0.5), mirrors=False)
    things = scenes.Objects(np.zeros((1, 8, 8), np.uint8), np.zeros(1, np.int64))
    random, wall = np.random.RandomState(0), Image.new("RGB", (80, 80), "grey")
    counts = []
    for _ in range(60):
        _, objects = scenes.scene(kind, things, [wall], 64, random)
        counts.append(len(objects))
        assert all(mask.sum() >= 32 * 32 / 3 for _, mask in objects)
        assert sum(mask.astype(int) for _, mask in objects).max() == 1  # type: ignore[attr-defined]
    assert set(counts) <= {1, 2, 3, 4}
    assert max(counts) > 1
