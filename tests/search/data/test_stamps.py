import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from search.data import published, scenes, stamps
from search.data.annotated import AnnotatedSet
from search.data.cache import Decoded
from search.data.config import DataConfig

from .test_scenes import assert_objects_fit, parts_of

FEW = {"train_size": 12, "val_size": 6, "test_size": 6}
FOLDERS = {
    "mammal": ["animals/mammals/cats", "animals/marsupials"],
    "bird": ["animals/birds"],
    "produce": ["food/fruit", "food/nuts", "food/vegetables"],
    "flower": ["plants/flowers"],
    "vehicle": ["vehicles/auto", "military/vehicles"],
}
NUMBERS = dict(zip(FOLDERS, (12, 9, 7, 5, 4), strict=True))
NO_STAMPS = ("animals/birds/cartoon/tux", "vehicles/auto/0_mirror", "vehicles/wheel_tractor", "plants/trees/oak")


def package(folder: Path) -> None:
    """Rings in a wide frame that is clear, of a level of red of their own; blue are those that must not be taken."""
    levels = iter(range(100, 200))
    for kind, folders in FOLDERS.items():
        for number in range(NUMBERS[kind]):
            draw(folder / folders[number % len(folders)] / f"{number}.png", (next(levels), 40, 0), 500 * (number == 0))
    for name in NO_STAMPS:
        draw(folder / f"{name}.png", (0, 0, 255), 0)


def draw(file: Path, colour: tuple[int, int, int], more: int) -> None:
    pixels = np.zeros((60 + more, 70 + more, 4), np.uint8)
    pixels[10:-10, 10:-10] = (*colour, 255)
    pixels[28:32, 30:40, 3] = 0
    pixels[2:5, 2:5] = (255, 255, 255, 90)  # a shadow, which is no part of it
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.fixture(scope="module")
def asked() -> Iterator[list[tuple[str, ...]]]:
    """What was asked of apt-get, which brings the made-up package."""
    commands: list[tuple[str, ...]] = []

    def run(command: tuple[str, ...], folder: Path) -> None:
        commands.append(command)
        (folder / f"{command[-1]}_1_all.deb").write_text("whole")

    def unpack(archive: Path, folder: Path) -> None:
        if archive.read_text() != "whole":
            raise ValueError("cut")
        package(folder / "usr/share/tuxpaint/stamps")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "run", run)
        patch.setattr(published, "unpack", unpack)
        yield commands


@pytest.fixture(scope="module")
def config(asked: list[tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return DataConfig("stamp_scenes", root=str(tmp_path_factory.mktemp("data")), **FEW)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(config: DataConfig) -> AnnotatedSet:
    return scenes.load(config)


def reds(images: np.ndarray) -> list[int]:
    return [int(image[0, 30, 30]) for image in images]


def files_of(root: str | Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(root).rglob("*") if path.is_file()}


def test_scenes_are_coco(made: AnnotatedSet) -> None:
    assert [len(part.scenes) for part in parts_of(made)] == [12, 6, 6]
    assert made.categories == dict(enumerate(FOLDERS, start=1))
    assert made.has_masks
    assert "Debian package tuxpaint-stamps-default" in made.source
    assert_objects_fit(made, side=128)


def test_a_scene_hangs_on_its_number_and_the_seed(config: DataConfig, made: AnnotatedSet, tmp_path: Path) -> None:
    more = scenes.load(replace(config, root=str(tmp_path), train_size=14))
    for index in range(12):
        assert more.train.scenes[index] == made.train.scenes[index]
        assert torch.equal(more.train.open(index), made.train.open(index))
    assert scenes.load(replace(config, root=str(tmp_path), split_seed=1)).digest != made.digest


def test_the_package_is_fetched_once_and_not_kept(
    config: DataConfig, made: AnnotatedSet, asked: list[tuple[str, ...]], tmp_path: Path
) -> None:
    before, times = files_of(config.root), len(asked)
    assert scenes.load(config).digest == made.digest
    assert files_of(config.root) == before
    shutil.copytree(config.root, tmp_path, dirs_exist_ok=True)
    scenes.load(replace(config, root=str(tmp_path), train_size=3))
    scenes.load(replace(config, root=str(tmp_path), split_seed=4))
    assert len(asked) == times
    assert set(asked) == {("apt-get", "download", "tuxpaint-stamps-default")}
    kept = {path.name for path in Path(config.root, "stamps").rglob("*") if path.is_file()}
    assert kept == {".lock", "images.npy", "labels.npy", "manifest.json"}


@pytest.mark.parametrize("what", ["images.npy", "00003.png", "val.json"])
def test_what_is_damaged_is_made_again(
    config: DataConfig, made: AnnotatedSet, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(config.root, tmp_path, dirs_exist_ok=True)
    other = replace(config, root=str(tmp_path))
    file = next(tmp_path.rglob(what))
    whole = file.read_bytes()
    file.write_bytes(whole[:30])
    stamps.load(other)
    assert scenes.load(other).digest == made.digest
    assert "are damaged" in caplog.text
    assert file.read_bytes() == whole


@pytest.mark.parametrize("seed", range(4))
def test_no_part_shares_a_stamp_and_classes_are_even(config: DataConfig, seed: int) -> None:
    parts, _ = scenes._stamps(replace(config, split_seed=seed))
    shown = {part: set(reds(things.images)) for part, things in parts.items()}
    assert sum(map(len, shown.values())) == len(set.union(*shown.values())) == sum(NUMBERS.values())
    for things in parts.values():
        assert len(set(Counter(things.labels.tolist()).values())) == 1
        assert set(things.labels.tolist()) == set(range(5))
        for label in range(5):  # and within a class no stamp is there twice more than another
            times = Counter(reds(things.images[things.labels == label])).values()
            assert max(times) - min(times) <= 1


@given(st.lists(st.integers(stamps.LEAST, 40), min_size=5, max_size=5), st.integers(0, 2**32 - 1))
def test_every_part_has_every_class_evenly(numbers: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(5), numbers)
    images = np.arange(len(labels))[:, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stamps, "load", lambda config: Decoded(images, labels, "numbers"))
        parts, _ = scenes._stamps(DataConfig("stamp_scenes", split_seed=seed))
    for things in parts.values():
        counts = np.bincount(things.labels, minlength=5)
        assert counts.min() == counts.max() > 0
        assert (labels[things.images[:, 0]] == things.labels).all()
    shown = [set(things.images[:, 0].tolist()) for things in parts.values()]
    assert set.union(*shown) == set(range(len(labels)))
    assert not any(one & other for one, other in itertools.combinations(shown, 2))


def test_stamps_are_cut_out_by_their_alpha(config: DataConfig) -> None:
    """Large ones are made smaller; what is faint around is cut off; holes stay; drawings and mirrored ones are not there."""
    kept = stamps.load(config)
    assert kept.images.shape == (37, 4, stamps.SIDE, stamps.SIDE)
    assert np.bincount(kept.labels).tolist() == list(NUMBERS.values())
    assert kept.images[:, 2].max() == 0, "blue"
    random = np.random.RandomState(0)
    sizes = Counter(stamps.cut(image, random).size for image in kept.images)
    assert sizes == {(50, 40): 32, (192, 189): 5}
    small = next(cut for cut in (stamps.cut(image, random) for image in kept.images) if cut.size == (50, 40))
    alpha = np.asarray(small)[..., 3]
    assert set(np.unique(alpha)) == {0, 255}
    assert (alpha[18:22, 20:30] == 0).all()
    assert (alpha == 0).sum() == 40


def test_where_the_package_cannot_be_had_it_says_what_to_put_where(config: DataConfig, tmp_path: Path) -> None:
    absent = replace(config, root=str(tmp_path), download=False)
    place = tmp_path / "stamps"
    needs = r"data\.name=stamp_scenes needs tuxpaint-stamps-default_\*\.deb in .*/stamps"
    with pytest.raises(ValueError, match=needs + r".*data\.download=false.*Put a whole one there.*data=digit_scenes"):
        scenes.load(absent)
    file = place / "tuxpaint-stamps-default_2_all.deb"
    file.write_text("who")
    with pytest.raises(ValueError, match=needs + r".*_2_all\.deb holds is damaged \(cut\).*Put a whole one there"):
        scenes.load(absent)
    file.write_text("whole")
    assert len(scenes.load(absent).train.scenes) == 12
    assert file.exists()


def test_without_apt_get_it_says_so_too(config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: tuple[str, ...], folder: Path) -> None:
        raise ValueError("apt-get is not installed")

    monkeypatch.setattr(published, "run", refuse)
    with pytest.raises(ValueError, match=r"could not be fetched \(apt-get is not installed\)\. Put a whole one there"):
        scenes.load(replace(config, root=str(tmp_path)))


def test_a_package_without_a_class_is_refused(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NUMBERS, "flower", 3)
    with pytest.raises(ValueError, match=r"has 3 stamps of the class flower, and 4 are needed"):
        scenes.load(replace(config, root=str(tmp_path)))
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.network
def test_the_real_ones(tmp_path: Path) -> None:
    """161 MB, of which a sixth is kept: half a minute on a quiet machine, two on a busy one."""
    if shutil.which("apt-get") is None:
        pytest.skip("apt-get is not installed")
    config = DataConfig("stamp_scenes", root=str(tmp_path), **FEW)  # type: ignore[arg-type]
    made = scenes.load(config)
    assert [len(part.scenes) for part in parts_of(made)] == [12, 6, 6]
    numbers = np.bincount(stamps.load(replace(config, download=False)).labels)
    assert (numbers >= [60, 30, 40, 20, 15]).all()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 40e6
