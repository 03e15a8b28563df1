import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search.data.config import DataConfig
from search.data.images import (
    ImageSet,
    load_data,
    load_images,
    match_channels,
    mean_and_std,
    resize,
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
