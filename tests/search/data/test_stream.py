"""The pixels of an epoch hang on (seed, epoch, index) alone, over real JPEG files; timm's own loader is the contrast."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_dataset, create_loader
from torch import Tensor, nn

from search.config import Config
from search.data.config import Augmentation, DataConfig
from search.data.images import load_data
from search.data.loaders import Loaders, image_loaders
from search.data.stream import evaluation_transform
from search.tasks.model import build

Batches = list[tuple[Tensor, Tensor]]
SIZE = 16
RECIPE = Augmentation(scale=[0.2, 1.0], aa="rand-m7-mstd0.5-inc1", train_interpolation="random")


def photograph(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    """Low noise enlarged: as smooth as a photograph, so that JPEG keeps it."""
    small = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, generator = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for part, count in (("train", 14), ("val", 3), ("test", 2)):
        for name in ("bird", "cat", "dog"):
            (place / part / name).mkdir(parents=True)
            for number in range(count):
                picture = photograph(generator, 24 + number, 40 - number)
                picture.save(place / part / name / f"{number}.jpg", quality=90)
    return place


def configured(folder: Path, **changes: Any) -> DataConfig:
    plain = {"image_size": SIZE, "batch_size": 6, "eval_batch_size": 4, "in_memory_mb": 0, "workers": 0, "flip": True}
    return DataConfig("folder", path=str(folder), **(plain | changes))


def made(
    folder: Path, augmentation: Augmentation = RECIPE, *, seed: int = 1, with_test: bool = False, **changes: Any
) -> Loaders:
    ranks = {name: changes.pop(name) for name in ("rank", "world") if name in changes}
    config = configured(folder, **changes)
    data = load_data(config, augmentation, "resnet18", with_test=with_test)
    return image_loaders(data, config, augmentation, seed=seed, **ranks)


def taken(loader: Any, epoch: int = 1, step: int = 0) -> Batches:
    return [(images.clone(), labels.clone()) for images, labels in loader.at(epoch, step)]


def equal(one: Batches, other: Batches) -> bool:
    return len(one) == len(other) and all(
        torch.equal(images, pictures) and torch.equal(labels, names)
        for (images, labels), (pictures, names) in zip(one, other, strict=True)
    )


@pytest.fixture(scope="module")
def expected(folder: Path) -> Batches:
    """An epoch without workers."""
    return taken(made(folder).train)


def test_batches_are_whole_shuffled_and_normalised(folder: Path, expected: Batches) -> None:
    loaders = made(folder, with_test=True)
    assert (len(expected), len(loaders.train), loaders.train.samples, loaders.val.samples) == (7, 7, 42, 9)
    images = torch.cat([images for images, _ in expected])
    assert images.shape == (42, 3, SIZE, SIZE)
    assert images.dtype == torch.float32
    assert torch.cat([labels for _, labels in expected]).bincount().tolist() == [14, 14, 14]
    assert loaders.info.mean == pytest.approx((0.485, 0.456, 0.406))
    assert loaders.test is not None
    assert loaders.test.samples == 6
    assert loaders.info.source == "57 pictures in the folder " + folder.name


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("step", [0, 5])
def test_any_number_of_workers_from_any_step(folder: Path, expected: Batches, workers: int, step: int) -> None:
    loader = made(folder, workers=workers).train
    for _ in range(2):  # workers live on
        assert equal(taken(loader, 1, step), expected[step:])
    assert not equal(taken(loader, 2), expected)


def test_workers_go_on_after_an_epoch_that_was_left(folder: Path, expected: Batches) -> None:
    loader = made(folder, workers=2).train
    for _, _ in zip(range(2), loader.at(3), strict=False):
        pass
    assert equal(taken(loader), expected)


@given(st.integers(0, 2**63 - 1), st.integers(0, 100))
def test_whatever_was_drawn_before(folder: Path, expected: Batches, seed: int, draws: int) -> None:
    torch.manual_seed(seed), random.seed(seed), np.random.seed(seed % 2**32)
    torch.rand(draws)
    state, others = torch.get_rng_state(), (random.getstate(), np.random.get_state()[1].tolist())
    assert equal(taken(made(folder).train, 1, 5), expected[5:])
    assert torch.equal(torch.get_rng_state(), state), "the model's dropout comes from there"
    assert (random.getstate(), np.random.get_state()[1].tolist()) == others


def test_seed_and_epoch_count(folder: Path, expected: Batches) -> None:
    assert not equal(taken(made(folder, seed=2).train), expected)
    assert not equal(taken(made(folder).train, 2), expected)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_see_what_one_does(folder: Path, expected: Batches, world: int) -> None:
    parts = [taken(made(folder, rank=rank, world=world).train) for rank in range(world)]
    for number, (images, labels) in enumerate(expected):
        for rank, part in enumerate(parts):
            assert torch.equal(part[number][0], images[rank::world])
            assert torch.equal(part[number][1], labels[rank::world])
    samples = [made(folder, rank=rank, world=world).train.sample(4) for rank in range(world)]
    assert all(torch.equal(images, samples[0][0]) and len(labels) == 4 for images, labels in samples)
    scored = [taken(made(folder, rank=rank, world=world, eval_batch_size=4).val) for rank in range(world)]
    assert [sum(len(labels) for _, labels in part) for part in scored] == [9] * world  # whoever evaluates reads all


@pytest.mark.parametrize("repeats", [2, 3])
def test_repeats_are_drawn_anew(folder: Path, repeats: int) -> None:
    got = taken(made(folder, replace(RECIPE, repeats=repeats)).train)
    images = torch.cat([images for images, _ in got])
    first = images[::repeats]
    assert len(images) == 42
    assert not any(torch.equal(images[at], images[at + 1]) for at in range(0, 42, repeats))
    assert equal(got, taken(made(folder, replace(RECIPE, repeats=repeats), workers=2).train))
    assert len(first) == 42 // repeats


def arms() -> Iterator[nn.Module]:
    """Networks that take different numbers of draws: a plain one, one with a block more, one with dropout."""
    for layers, dropout in (((1, 1, 1, 1), 0.0), ((1, 1, 2, 1), 0.0), ((1, 1, 1, 1), 0.5)):
        config = Config(seed=5)
        kwargs = {"channels": [4, 4, 8, 8], "layers": list(layers), "drop_rate": dropout}
        config.backbone = replace(config.backbone, kwargs=kwargs)
        yield build(config, 3, 3, SIZE)[0]


def epochs_of(model: Any, batches: Any, count: int = 3) -> list[Batches]:
    """What a network is trained on, an epoch after the other, with whatever it draws between."""
    seen = []
    for epoch in range(count):
        seen.append([])
        for images, labels in batches(epoch):
            model(images)
            seen[-1].append((images.clone(), labels.clone()))
    return seen


@pytest.mark.parametrize("workers", [0, 1])
def test_arms_of_any_depth_and_dropout_see_the_same_pixels(folder: Path, workers: int) -> None:
    seen = []
    for model in arms():
        loader = made(folder, workers=workers).train
        seen.append(epochs_of(model, loader.at))
    assert all(equal(one, other) for arm in seen[1:] for one, other in zip(seen[0], arm, strict=True))


@pytest.mark.filterwarnings("ignore")  # timm leaves the files open
@pytest.mark.parametrize("workers", [0, 1])
def test_timms_own_loader_pairs_no_arms(folder: Path, workers: int) -> None:
    """The reason for ours: it takes its order and its workers' seeds from the global generator, which models move."""
    seen = []
    for model in arms():
        loader = create_loader(
            create_dataset("", root=str(folder), split="train"),
            (3, SIZE, SIZE),
            6,
            is_training=True,
            auto_augment=RECIPE.aa,
            num_workers=workers,
            device=torch.device("cpu"),
            persistent_workers=False,
        )
        seen.append(epochs_of(model, lambda _, loader=loader: loader))
    plain, deeper, dropping = seen
    assert not equal(plain[0], deeper[0])
    assert not equal(plain[1], dropping[1])


def test_evaluation_is_timms(folder: Path) -> None:
    loader = made(folder, eval_batch_size=9).val
    ((images, labels),) = taken(loader)
    files = sorted((folder / "val").glob("*/*.jpg"))
    change = evaluation_transform(made(folder).info)
    theirs = torch.stack([change(Image.open(file)) for file in files]).float()
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (made(folder).info.mean, made(folder).info.std)
    )
    torch.testing.assert_close(images, (theirs - mean) / std)
    assert labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert equal(taken(made(folder, eval_batch_size=9, workers=2).val), [(images, labels)])
    info = made(folder, crop_pct=0.5, interpolation="bicubic").info
    assert (info.crop_pct, info.interpolation) == (0.5, "bicubic")


def test_without_a_random_crop_the_centre_is_shifted(folder: Path) -> None:
    plain = made(folder, Augmentation(), crop_padding=0, flip=False).train
    again, other = (taken(made(folder, Augmentation(), crop_padding=0, flip=False).train, epoch) for epoch in (1, 2))

    def sorted_pixels(batches: Batches) -> list[float]:
        return sorted(float(image.sum()) for images, _ in batches for image in images)

    assert sorted_pixels(taken(plain)) == sorted_pixels(again) == pytest.approx(sorted_pixels(other))
    shifted = taken(made(folder, Augmentation(), crop_padding=3).train)
    assert sorted_pixels(shifted) != sorted_pixels(again)


def test_an_alternating_flip_shows_the_other_side_in_the_next_epoch(folder: Path) -> None:
    def seen(epoch: int, flip: bool | str, **changes: Any) -> dict[bytes, Tensor]:
        """The pictures of an epoch by what both sides of one have in common."""
        loader = made(folder, Augmentation(), crop_padding=0, flip=flip, **changes).train
        pictures = [image for images, _ in taken(loader, epoch) for image in images]
        return {torch.minimum(image, image.flip(2)).numpy().tobytes(): image for image in pictures}

    plain = seen(1, False)
    first, second = (seen(epoch, "alternate") for epoch in (1, 2))
    assert first.keys() == plain.keys() == second.keys()
    assert all(torch.equal(second[key], image.flip(2)) for key, image in first.items())
    assert 0 < sum(torch.equal(plain[key], image.flip(2)) for key, image in first.items()) < len(plain)
    again = seen(1, "alternate", workers=2)
    assert all(torch.equal(again[key], image) for key, image in first.items())


def test_a_sample_is_of_the_epoch_that_is_never_trained(folder: Path) -> None:
    loader = made(folder).train
    images, labels = loader.sample(4)
    first, names = taken(loader, 0)[0]
    assert torch.equal(images, first[:4])
    assert torch.equal(labels, names[:4])
    assert len(loader.sample(99)[1]) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_picture_is_named_and_never_replaced(folder: Path, tmp_path: Path, workers: int) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    broken = tmp_path / "copy" / "train" / "cat" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    loader = made(tmp_path / "copy", workers=workers).train
    with pytest.raises(
        ValueError, match=r"cat/3\.jpg cannot be read as a picture \(.*\)\. It may be truncated: replace it"
    ) as told:
        taken(loader)
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_another_release_of_what_decodes_is_other_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digests() -> list[str]:
        found = [load_data(configured(folder), recipe, with_test=False) for recipe in (Augmentation(), RECIPE)]
        found += [load_data(DataConfig(), recipe, with_test=False) for recipe in (RECIPE, Augmentation())]
        return [data.info.digest for data in found]

    before = digests()
    monkeypatch.setattr("PIL.__version__", "0")
    assert [one == other for one, other in zip(before, digests(), strict=True)] == [False, False, False, True]


def test_images_in_memory_are_streamed_where_the_recipe_needs_pictures() -> None:
    config = DataConfig(batch_size=64, workers=0)
    for recipe, kind in ((Augmentation(), "MemoryLoader"), (Augmentation(aa="rand-m5"), "StreamLoader")):
        loaders = image_loaders(load_data(config, recipe, with_test=False), config, recipe, seed=1)
        assert (type(loaders.train).__name__, type(loaders.val).__name__) == (kind, "MemoryLoader")
        images, labels = next(iter(loaders.train.at(1)))
        assert images.shape == (64, 1, 16, 16)
        assert len(labels) == 64
        assert images.mean().item() == pytest.approx(0, abs=0.2)


def test_what_timm_does_not_take_is_told(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.aa=rand-x9: timm does not take it"):
        made(folder, Augmentation(aa="rand-x9"))
