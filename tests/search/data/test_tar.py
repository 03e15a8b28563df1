import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search.data import tar
from search.data.config import Augmentation, DataConfig
from search.data.images import PictureSet, load_data, load_images
from search.data.loaders import image_loaders

from .test_stream import photograph


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures in train/<class> and val/<class>."""
    generator = np.random.default_rng(1)
    for part, count in (("train", 5), ("val", 2)):
        for name in ("bird", "cat"):
            (tmp_path / "plain" / part / name).mkdir(parents=True)
            for number in range(count):
                picture = photograph(generator, 20 + number, 30)
                picture.save(tmp_path / "plain" / part / name / f"{number}.jpg")
    return tmp_path / "plain"


def packed(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w") as file:
        file.add(source, arcname="." if (source / "bird").exists() or (source / "train").exists() else source.name)
    return target


@pytest.fixture
def parts(folder: Path, tmp_path: Path) -> Path:
    for part in ("train", "val"):
        packed(folder / part, tmp_path / "parts" / f"{part}.tar")
    return tmp_path / "parts"


def configured(path: Path, **changes: Any) -> DataConfig:
    config = DataConfig("tar", path=str(path), image_size=12, batch_size=3, eval_batch_size=4, workers=0, flip=True)
    return replace(config, **changes)


def pixels(pictures: PictureSet) -> list[bytes]:
    return [pictures.open(index).tobytes() for index in range(len(pictures.labels))]


def test_a_tar_for_each_part(parts: Path, folder: Path) -> None:
    pictures = tar.load(configured(parts))
    assert pictures.classes == ("bird", "cat")
    assert pictures.labels.tolist() == [0] * 5 + [1] * 5 + [0] * 2 + [1] * 2
    assert (pictures.official_val, pictures.official_test) == (0, 4)
    assert pictures.source == "14 pictures in parts"
    streamed = DataConfig("folder", path=str(folder), image_size=12, batch_size=3, in_memory_mb=0)

    assert pixels(pictures) == pixels(load_images(streamed))


def test_one_tar_or_a_tar_for_each_class_is_split_by_shares(folder: Path, tmp_path: Path) -> None:
    one = tar.load(configured(packed(folder / "train", tmp_path / "all.tar")))
    for name in ("bird", "cat"):
        packed(folder / "train" / name, tmp_path / "classes" / f"{name}.tar")
    each = tar.load(configured(tmp_path / "classes"))
    assert (one.official_val, one.official_test, len(one.labels)) == (0, 0, 10)
    assert one.classes == each.classes == ("bird", "cat")
    assert sorted(pixels(one)) == sorted(pixels(each))
    data = load_data(configured(tmp_path / "classes"), with_test=True)
    assert data.test is not None
    assert [len(part.labels) for part in (data.train, data.val, data.test)] == [6, 2, 2]


def test_the_same_pixels_with_any_number_of_workers(parts: Path) -> None:
    recipe = Augmentation(aa="rand-m5", scale=[0.3, 1.0])

    def epoch(workers: int) -> list[torch.Tensor]:
        config = configured(parts, workers=workers)
        loaders = image_loaders(load_data(config, recipe, with_test=False), config, recipe, seed=4)
        loaders.train.sample(2)  # in this process, before there are workers
        return [images for images, _ in loaders.train.at(1)]

    assert all(torch.equal(one, other) for one, other in zip(epoch(0), epoch(2), strict=True))


def test_the_digest_changes_with_a_member(parts: Path, folder: Path) -> None:
    before = tar.load(configured(parts)).digest
    assert tar.load(configured(parts)).digest == before
    (folder / "train" / "cat" / "4.jpg").rename(folder / "train" / "cat" / "5.jpg")
    packed(folder / "train", parts / "train.tar")
    assert tar.load(configured(parts)).digest != before


def test_it_can_be_sent_to_workers_that_are_not_forked(parts: Path) -> None:
    pictures = tar.load(configured(parts))
    assert pickle.loads(pickle.dumps(pictures.open))(3).tobytes() == pictures.open(3).tobytes()


def test_what_is_laid_out_otherwise_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"parts train, val in one tar, which would be mixed"):
        tar.load(configured(packed(folder, tmp_path / "mixed.tar")))
    with pytest.raises(ValueError, match=r"plain/train holds no \.tar"):
        tar.load(configured(folder))
    with pytest.raises(ValueError, match="is not there"):
        tar.load(configured(tmp_path / "nowhere.tar"))
    (tmp_path / "text" / "a").mkdir(parents=True)
    (tmp_path / "text" / "a" / "note.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.tar holds no pictures that timm's reader finds"):
        tar.load(configured(packed(tmp_path / "text", tmp_path / "text.tar")))
    with pytest.raises(ValueError, match=r"bird\.tar holds the classes bird; at least 2"):
        tar.load(configured(packed(folder / "train" / "bird", tmp_path / "bird.tar")))


def test_a_broken_picture_is_named(folder: Path, tmp_path: Path) -> None:
    broken = folder / "train" / "cat" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    pictures = tar.load(configured(packed(folder / "train", tmp_path / "all.tar")))
    with pytest.raises(ValueError, match=r"all\.tar/.*cat/2\.jpg cannot be read as a picture"):
        pixels(pictures)
