from dataclasses import replace
from pathlib import Path

import pytest
import torch

from search.data.config import DataConfig
from search.data.fit import mean_and_std
from search.data.load import load_data
from search.data.sources import load_images


def test_digits_from_end_to_end(tmp_path: Path) -> None:
    config = DataConfig(root=str(tmp_path / "data"))
    data = load_data(config, with_test=True)
    assert data.test is not None
    assert [len(pair.labels) for pair in (data.train, data.val, data.test)] == [1079, 359, 359]
    assert data.train.images.shape == (1079, 1, 16, 16)
    assert data.train.images.dtype == torch.uint8
    assert (data.mean, data.std) == mean_and_std(data.train.images)
    assert (data.channels, data.image_size, len(data.classes)) == (1, 16, 10)
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
    assert len(data.mean) == len(data.std) == data.channels == 3
    assert data.image_size == 32


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(ValueError, match=r"did you mean digits"):
        load_images(DataConfig(name="digit"))
