import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search.data.config import DataConfig
from search.data.images import (
    ImageSet,
    Labelled,
    load_data,
    load_images,
    match_channels,
    mean_and_std,
    resize,
    shares,
    split_labels,
)


def test_digits_from_end_to_end(tmp_path: Path) -> None:
    config = DataConfig(root=str(tmp_path / "data"))
    data = load_data(config, with_test=True)
    assert data.test is not None
    assert [len(pair.labels) for pair in (data.train, data.val, data.test)] == [1079, 359, 359]
    assert data.train.images.shape == (1079, 1, 16, 16)
    assert data.train.images.dtype == torch.uint8
    assert (data.info.mean, data.info.std) == mean_and_std(data.train.images)
    assert (data.info.channels, data.info.image_size, len(data.info.classes)) == (1, 16, 10)
    assert not (tmp_path / "data").exists()  # nothing to fetch, nothing to write


def test_test_images_come_only_when_asked_for() -> None:
    without, with_test = (load_data(DataConfig(), with_test=flag) for flag in (False, True))
    assert without.test is None
    assert with_test.test is not None
    assert torch.equal(without.val.images, with_test.val.images)
    assert torch.equal(without.train.images, with_test.train.images)


def test_size_and_channels_can_be_chosen() -> None:
    data = load_data(replace(DataConfig(), image_size=32, channels=3), with_test=False)
    assert data.val.images.shape == (359, 3, 32, 32)
    assert len(data.info.mean) == len(data.info.std) == data.info.channels == 3
    assert data.info.image_size == 32


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(ValueError, match=r"did you mean digits"):
        load_images(DataConfig(name="digit"))


def noise(channels: int, size: int = 8, count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


def test_own_size_is_untouched() -> None:
    images = noise(3)
    assert resize(images, 8) is images
    assert match_channels(images, 3) is images


@pytest.mark.parametrize("size", [4, 16, 31])
def test_resize_keeps_type_brightness_and_flat_images(size: int) -> None:
    small = resize(noise(3), size)
    assert small.shape == (6, 3, size, size)
    assert small.dtype == torch.uint8
    assert small.float().mean().item() == pytest.approx(noise(3).float().mean().item(), abs=3)
    assert (resize(torch.full((2, 1, 8, 8), 77, dtype=torch.uint8), size) == 77).all()


def test_grey_to_colour_and_back() -> None:
    grey = noise(1)
    colour = match_channels(grey, 3)
    assert colour.shape == (6, 3, 8, 8)
    assert torch.equal(match_channels(colour, 1), grey)


def test_mean_and_std_are_those_of_torch() -> None:
    images = noise(3)
    mean, std = mean_and_std(images)
    values = images.double().div(255).transpose(0, 1).flatten(1)
    assert mean == pytest.approx(values.mean(1).tolist())
    assert std == pytest.approx(values.std(1, correction=0).tolist())


def test_a_flat_channel_can_be_divided_by() -> None:
    assert mean_and_std(torch.full((2, 1, 4, 4), 51, dtype=torch.uint8)) == ((pytest.approx(0.2),), (1 / 255,))


BASE = ImageSet(
    images=torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2),
    labels=torch.tensor([0, 1, 0, 1]),
    classes=("a", "b"),
    source="a test",
)


def test_the_digest_is_of_all_that_a_trial_is_given() -> None:
    others = (
        replace(BASE, images=BASE.images.flip(0)),
        replace(BASE, images=BASE.images.view(4, 3, 4, 1)),
        replace(BASE, labels=BASE.labels.flip(0)),
        replace(BASE, classes=("b", "a")),
        replace(BASE, official_val=1),
        replace(BASE, official_test=1),
        replace(BASE, mean=(0.5,), std=(0.5,)),
    )
    assert len({BASE.digest, *(other.digest for other in others)}) == 1 + len(others)
    assert replace(BASE, source="elsewhere").digest == BASE.digest


def test_checksums_that_are_known_are_taken() -> None:
    known = tuple(zlib.crc32(part.numpy().tobytes()) for part in (BASE.images, BASE.labels))
    assert replace(BASE, crc32=known).digest == BASE.digest
    assert replace(BASE, crc32=(1, 2)).digest != BASE.digest


@given(place=st.integers(0, 47), value=st.integers(1, 255))
def test_any_other_pixel_is_seen(place: int, value: int) -> None:
    images = BASE.images.clone()
    images.view(-1)[place] += value
    assert replace(BASE, images=images).digest != BASE.digest


def labelled(counts: list[int], official_val: int = 0, official_test: int = 0) -> Labelled:
    labels = np.arange(len(counts)).repeat(counts)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(9)).numpy()]
    return Labelled(labels, tuple(f"class{number}" for number in range(len(counts))), official_val, official_test)


CONFIG = DataConfig(val_size=10, test_size=10, batch_size=2)


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(10, 60), min_size=2, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    val=st.integers(1, 6),
    test=st.integers(1, 6),
)
def test_parts_are_disjoint_stratified_and_fixed(counts: list[int], seed: int, val: int, test: int) -> None:
    images = labelled(counts)
    config = replace(CONFIG, val_size=val, test_size=test, split_seed=seed)
    parts = split_labels(images, config)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(sum(counts)))
    assert (len(parts.val), len(parts.test)) == (val, test)
    shares_of_test = torch.bincount(torch.from_numpy(images.labels)[parts.test], minlength=len(counts)).double()
    assert (shares_of_test - torch.tensor(counts) * test / sum(counts)).abs().max() < 1
    torch.rand(3)  # torch's global generator has no say
    for again, first in zip(split_labels(images, config), parts, strict=True):
        assert torch.equal(again, first)
        assert torch.equal(first, first.sort().values)


@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=8), data=st.data())
def test_shares_add_up_and_never_exceed_a_class(counts: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(0, sum(counts)))
    share = shares(np.array(counts), size)
    assert share.sum() == size
    assert (share >= 0).all()
    assert (share <= counts).all()


def test_the_stream_of_indices_is_pinned() -> None:
    # If this fails, every study's split has changed and old results cannot be compared any more.
    images = labelled([20, 20])._replace(labels=np.arange(40) % 2)
    parts = split_labels(images, replace(CONFIG, val_size=4, test_size=4))
    assert [part.tolist() for part in parts[1:]] == [[13, 17, 26, 28], [15, 20, 22, 25]]


def test_another_seed_is_another_split() -> None:
    images = labelled([50, 50])
    assert not torch.equal(split_labels(images, CONFIG).test, split_labels(images, replace(CONFIG, split_seed=1)).test)


def test_test_and_val_stay_when_train_shrinks_and_test_when_val_grows() -> None:
    images = labelled([50, 50, 50])
    whole = split_labels(images, CONFIG)
    small = split_labels(images, replace(CONFIG, train_size=30))
    assert torch.equal(small.test, whole.test)
    assert torch.equal(small.val, whole.val)
    assert len(small.train) == 30
    assert torch.equal(split_labels(images, replace(CONFIG, val_size=40)).test, whole.test)


def test_the_official_parts_are_kept_apart() -> None:
    images = labelled([40, 40], official_val=16, official_test=20)
    parts = split_labels(images, replace(CONFIG, test_size=None))
    assert parts.test.tolist() == list(range(60, 80))
    assert set(parts.val.tolist()) <= set(range(44, 60))
    assert parts.train.tolist() == list(range(44))


def test_without_sizes_a_fifth_is_test_and_the_rest_is_training() -> None:
    parts = split_labels(labelled([50, 50]), replace(CONFIG, test_size=None))
    assert [len(part) for part in parts] == [70, 10, 20]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"val_size": None, "test_size": None}, [60, 20, 20]),
        ({"val_size": 0.1, "test_size": 0.25}, [65, 10, 25]),  # shares of all images, whatever is drawn first
        ({"val_size": 7, "test_size": 0.25}, [68, 7, 25]),
        ({"val_size": 0.001, "test_size": 0.001}, [98, 1, 1]),
        ({"val_size": 10, "test_size": 10, "train_size": 0.5}, [50, 10, 10]),
    ],
)
def test_a_size_is_a_count_or_a_share(changes: dict[str, float | None], parts: list[int]) -> None:
    found = split_labels(labelled([50, 50]), replace(CONFIG, **changes))  # type: ignore[arg-type]
    assert [len(part) for part in found] == parts


def test_a_share_of_an_official_part_is_of_that_part() -> None:
    images = labelled([40, 40], official_val=16, official_test=20)
    whole = split_labels(images, replace(CONFIG, val_size=None, test_size=None))
    assert [len(part) for part in whole] == [44, 16, 20]
    found = split_labels(images, replace(CONFIG, val_size=0.5, test_size=0.5, train_size=0.5))
    assert [len(part) for part in found] == [22, 8, 10]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_size": 101}, r"data\.test_size=101 is too large: the images holds 100"),
        ({"val_size": 91}, r"data\.val_size=91 is too large: what the test part leaves holds 90"),
        ({"train_size": 81}, r"data\.train_size=81 is too large: what validation and test leave holds 80"),
        ({"train_size": 1}, r"none of the classes class1"),
        ({"val_size": 90}, r"none of the classes class0, class1"),
        ({"batch_size": 81}, r"data\.batch_size=81 is larger than the training part of 80"),
    ],
)
def test_sizes_that_cannot_be_had_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_labels(labelled([50, 50]), replace(CONFIG, **changes))


def test_too_large_an_official_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.test_size=21.*the official test part holds 20"):
        split_labels(labelled([40, 40], official_test=20), replace(CONFIG, test_size=21))
