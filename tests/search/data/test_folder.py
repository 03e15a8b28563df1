import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from search.data import folder as image_folder
from search.data.config import Augmentation, DataConfig
from search.data.images import ImageSet, PictureSet, load_data, load_images

RED, GREEN = (250, 0, 0), (0, 250, 0)


def fill(folder: Path, colour: tuple[int, int, int], count: int, suffix: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (20 + number, 12), colour).save(folder / f"{number:03}.{suffix}")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    fill(folder / "red", RED, 10)
    fill(folder / "green", GREEN, 8, "jpg")
    return folder


def load(folder: Path, size: int = 6, channels: int = 3) -> ImageSet:
    listing = image_folder.list_pictures(folder)
    return image_folder.read_pictures(folder.parent / "data", size, channels, listing)


def test_a_folder_for_each_class(pictures: Path) -> None:
    images = load(pictures)
    assert images.classes == ("green", "red")
    assert images.labels.tolist() == [0] * 8 + [1] * 10
    assert images.images.shape == (18, 3, 6, 6)
    assert images.images.dtype == torch.uint8
    assert images.images[-1, :, 0, 0].tolist() == list(RED)
    assert (images.official_val, images.official_test) == (0, 0)
    assert images.source == "18 pictures in the folder pictures"


def test_end_to_end_with_statistics_of_the_training_part(pictures: Path) -> None:
    config = DataConfig(
        "folder", root=str(pictures.parent / "data"), path=str(pictures), image_size=6, val_size=4, batch_size=4
    )
    data = load_data(config, with_test=True)
    assert data.test is not None
    assert [len(pair.labels) for pair in (data.train, data.val, data.test)] == [11, 4, 3]
    assert data.info.mean[0] == pytest.approx(data.train.images[:, 0].float().mean().item() / 255)


def test_grey(pictures: Path) -> None:
    images = load(pictures, channels=1)
    assert images.images.shape == (18, 1, 6, 6)
    assert images.images[-1].unique().tolist() == [75]


def test_the_shorter_side_is_fitted_and_the_centre_kept(tmp_path: Path) -> None:
    stripes = np.zeros((10, 30, 3), dtype=np.uint8)
    stripes[:, 7:23] = 200  # the central square and what resampling sees beside it
    for name in ("a", "b"):
        (tmp_path / "x" / name).mkdir(parents=True)
        Image.fromarray(stripes).save(tmp_path / "x" / name / "1.png")
    assert (load(tmp_path / "x", size=5).images == 200).all()


def test_decoded_once_until_the_pictures_change(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(pictures)
    with monkeypatch.context() as patched:
        patched.setattr(image_folder, "open_picture", lambda *_: pytest.fail("decoded again"))
        assert len(load(pictures).labels) == 18
    fill(pictures / "red", GREEN, 10)
    assert load(pictures).images[-1, :, 0, 0].tolist() == list(GREEN)
    assert load(pictures, size=4).images.shape[-1] == 4


def test_a_picture_of_equal_size_and_time_is_decoded_anew(tmp_path: Path) -> None:
    for name, colour in (("green", GREEN), ("red", RED)):
        fill(tmp_path / "pictures" / name, colour, 3, "bmp")
    before = load(tmp_path / "pictures")
    replaced, other = tmp_path / "pictures/red/002.bmp", tmp_path / "pictures/green/002.bmp"
    stamp = replaced.stat()
    shutil.copyfile(other, replaced)
    os.utime(replaced, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert (replaced.stat().st_size, replaced.stat().st_mtime_ns) == (stamp.st_size, stamp.st_mtime_ns)
    after = load(tmp_path / "pictures")
    assert after.images[-1, :, 0, 0].tolist() == list(GREEN)
    assert after.digest != before.digest


def test_the_same_pictures_elsewhere_are_the_same_data(pictures: Path) -> None:
    here = load(pictures)
    shutil.copytree(pictures, pictures.parent / "copy" / "named differently")
    (pictures / "red" / "000.png").touch()
    assert {load(pictures).digest, load(pictures.parent / "copy" / "named differently").digest} == {here.digest}
    (pictures / "red").rename(pictures / "rot")
    assert load(pictures).digest != here.digest, "another class"


@pytest.mark.parametrize(("held_out", "val", "test"), [(("test",), 0, 4), (("val",), 0, 4), (("val", "test"), 4, 4)])
def test_official_parts(tmp_path: Path, held_out: tuple[str, ...], val: int, test: int) -> None:
    for part in ("train", *held_out):
        fill(tmp_path / "x" / part / "red", RED, 3 if part == "train" else 2)
        fill(tmp_path / "x" / part / "green", GREEN, 3 if part == "train" else 2)
    images = load(tmp_path / "x")
    assert (images.official_val, images.official_test) == (val, test)
    assert len(images.labels) == 6 + val + test


def test_what_is_no_picture_is_passed_over(pictures: Path) -> None:
    (pictures / "red" / "notes.txt").write_text("hello")
    (pictures / "red" / "._000.png").write_bytes(b"left by another system")
    (pictures / ".thumbnails").mkdir()
    assert len(load(pictures).labels) == 18


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_picture_is_named(pictures: Path, suffix: str) -> None:
    file = pictures / "red" / f"broken.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:-600])
    with pytest.raises(ValueError, match=rf"broken\.{suffix} cannot be read as a picture.*replace it or delete it"):
        load(pictures)
    file.write_bytes(b"")
    (pictures / "green" / "note.png").write_text("no picture")
    with pytest.raises(
        ValueError, match=rf"2 of 20 files cannot be read as pictures: .*note\.png, .*broken\.{suffix}\."
    ):
        load(pictures)


def configured(folder: Path, **changes: Any) -> DataConfig:
    config = DataConfig("folder", root=str(folder.parent / "data"), path=str(folder), image_size=6, batch_size=4)
    return replace(config, **changes)


def test_a_folder_works_without_any_size(pictures: Path) -> None:
    data = load_data(configured(pictures), with_test=True)
    assert data.test is not None
    assert [len(pair.labels) for pair in (data.train, data.val, data.test)] == [12, 3, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_size": 500}, r"data\.val_size=500 is too large"),
        ({"val_size": 0.9}, r"val_size=16 is too large: what the test part leaves holds 15"),
        ({"batch_size": 64}, r"data\.batch_size=64 is larger than the training part of 12"),
        ({"train_size": 1}, r"none of the classes red"),
        ({"image_size": None}, r"needs data\.image_size"),
    ],
)
def test_what_cannot_be_had_is_told_before_anything_is_decoded(
    pictures: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open_picture", "refuse_unreadable"):
        monkeypatch.setattr(image_folder, name, lambda *_: pytest.fail("a picture was opened"))
    with pytest.raises(ValueError, match=message):
        load_data(configured(pictures, **changes), with_test=False)


def test_links_to_nowhere_and_in_a_circle(pictures: Path) -> None:
    (pictures / "red" / "again").symlink_to(pictures / "red", target_is_directory=True)
    assert len(load(pictures).labels) == 18  # each picture once
    (pictures / "red" / "gone.png").symlink_to(pictures / "nowhere.png")
    with pytest.raises(ValueError, match=r"gone\.png cannot be read \(No such file"):
        load(pictures)


def test_deep_pixels_are_refused_rather_than_cut_off(pictures: Path) -> None:
    Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16)).save(pictures / "red" / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png holds more than 8 bits"):
        load(pictures)


def test_folders_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        load(tmp_path / "absent")
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match=r"holds 0 class folders \(none\); at least 2"):
        load(tmp_path / "x")
    fill(tmp_path / "x" / "red", RED, 2)
    with pytest.raises(ValueError, match=r"holds 1 class folders \(red\)"):
        load(tmp_path / "x")
    (tmp_path / "x" / "green").mkdir()
    with pytest.raises(ValueError, match=r"green holds no pictures"):
        load(tmp_path / "x")


def test_parts_that_do_not_fit_are_told(tmp_path: Path) -> None:
    for name, colour in (("red", RED), ("green", GREEN)):
        fill(tmp_path / "x" / "train" / name, colour, 2)
    (tmp_path / "x" / "test").mkdir()
    with pytest.raises(ValueError, match=r"test holds no pictures"):
        load(tmp_path / "x")
    fill(tmp_path / "x" / "test" / "blue", RED, 1)
    with pytest.raises(ValueError, match=r"has classes that train has not: blue"):
        load(tmp_path / "x")


def streamed(folder: Path, **changes: Any) -> PictureSet:
    pictures = load_images(configured(folder, in_memory_mb=0, **changes))
    assert isinstance(pictures, PictureSet)
    return pictures


def test_what_does_not_fit_into_memory_is_decoded_on_the_way(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for name, colour in (("green", GREEN), ("red", RED)):
        fill(folder / name, colour, 3)
    assert isinstance(load_images(configured(folder, image_size=240, in_memory_mb=1)), ImageSet)  # 0.99 MiB
    assert isinstance(load_images(configured(folder, image_size=250, in_memory_mb=1)), PictureSet)  # 1.07 MiB
    fill(folder / "red", RED, 12)
    pictures = streamed(folder, channels=1)
    assert (pictures.labels.tolist(), pictures.classes) == ([0] * 3 + [1] * 12, ("green", "red"))
    assert (pictures.open(4).mode, pictures.open(4).size) == ("L", (21, 12))


def test_a_check_decodes_one_picture(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = image_folder.open_picture

    def counting(path: str, mode: str) -> Image.Image:
        opened.append(path)
        return original(path, mode)

    monkeypatch.setattr(image_folder, "open_picture", counting)
    load_data(configured(pictures), Augmentation(aa="rand-m5"), "resnet18", with_test=True)
    assert [Path(path).name for path in opened] == ["000.jpg"]
    assert not (pictures.parent / "data").exists(), "nothing is kept of it"


def test_the_digest_of_a_stream_is_of_names_and_sizes(pictures: Path) -> None:
    before = streamed(pictures).digest
    shutil.copytree(pictures, pictures.parent / "elsewhere")
    (pictures / "red" / "000.png").touch()
    assert streamed(pictures).digest == streamed(pictures.parent / "elsewhere").digest == before
    fill(pictures / "red", (200, 30, 9), 1)
    (pictures / "red" / "000.png").write_bytes((pictures / "red" / "000.png").read_bytes() + b"more")
    sized = streamed(pictures).digest
    (pictures / "red" / "009.png").rename(pictures / "red" / "010.png")
    assert len({before, sized, streamed(pictures).digest}) == 3


def test_a_list_of_files_is_one_string_of_bytes(tmp_path: Path) -> None:
    files = image_folder.Files(tmp_path)
    names = ["a/b.png", "a/é b.png", os.fsdecode(b"a/\xff.png")]
    for name in names:
        files.add(name)
    assert [files.name(index) for index in range(len(files))] == names
    assert list(files) == [tmp_path / name for name in names]
