import builtins
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search.data import hfds
from search.data.config import Augmentation, DataConfig
from search.data.images import load_data
from search.data.loaders import image_loaders

from .test_stream import photograph


def configured(path: Path, **changes: Any) -> DataConfig:
    config = DataConfig("hfds", path=str(path), root=str(path.parent / "data"), image_size=12, batch_size=3)
    return replace(config, workers=0, flip=True, **changes)


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    module = pytest.importorskip("datasets")
    module.disable_progress_bars()
    return module


@pytest.fixture
def saved(datasets: Any, tmp_path: Path) -> Path:
    """A data set of 8 training and 4 validation pictures, as `save_to_disk` leaves it."""
    generator = np.random.default_rng(2)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "bird"])})

    def split(count: int) -> Any:
        pictures = [photograph(generator, 20 + number, 16) for number in range(count)]
        return datasets.Dataset.from_dict({"image": pictures, "label": [n % 2 for n in range(count)]}, features)

    datasets.DatasetDict({"train": split(8), "validation": split(4)}).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_data_set_that_was_saved_to_disk(saved: Path) -> None:
    pictures = hfds.load(configured(saved))
    assert pictures.classes == ("cat", "bird")
    assert pictures.labels.tolist() == [0, 1] * 6
    assert (pictures.official_val, pictures.official_test) == (0, 4)
    assert [pictures.open(index).size for index in (0, 7, 8, 11)] == [(20, 16), (27, 16), (20, 16), (23, 16)]
    assert pictures.source == "12 pictures of the data set saved"
    assert hfds.load(configured(saved)).digest == pictures.digest


def test_files_of_parquet(datasets: Any, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "parquet").mkdir()
    for name, split in datasets.load_from_disk(str(saved)).items():
        split.to_parquet(str(tmp_path / "parquet" / f"{name}-00000-of-00001.parquet"))
    one, other = hfds.load(configured(tmp_path / "parquet")), hfds.load(configured(saved))
    assert one.labels.tolist() == other.labels.tolist()
    assert [one.open(n).tobytes() for n in range(12)] == [other.open(n).tobytes() for n in range(12)]


def test_the_same_pixels_with_any_number_of_workers(saved: Path) -> None:
    recipe = Augmentation(aa="rand-m5", scale=[0.3, 1.0])

    def epoch(workers: int) -> list[torch.Tensor]:
        config = configured(saved, val_size=0.25)
        config.workers = workers
        loaders = image_loaders(load_data(config, recipe, with_test=False), config, recipe, seed=4)
        return [images for images, _ in loaders.train.at(1)]

    assert all(torch.equal(one, other) for one, other in zip(epoch(0), epoch(2), strict=True))


def test_what_is_not_there_is_told(datasets: Any, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        hfds.load(configured(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no data set that `datasets` can read"):
        hfds.load(configured(tmp_path / "empty"))
    for keys in ({"input_key": "img"}, {"target_key": "kind"}):
        with pytest.raises(
            ValueError, match=r"split train, cannot be read .* must be its column of pictures, data\.target"
        ):
            hfds.load(configured(saved, **keys))
    whole = datasets.load_from_disk(str(saved))
    numbered = whole.cast_column("label", datasets.Value("int64"))
    numbered.save_to_disk(str(tmp_path / "numbered"))
    with pytest.raises(ValueError, match=r"label is no column of class labels .* `class_encode_column\('label'\)`"):
        hfds.load(configured(tmp_path / "numbered"))
    datasets.DatasetDict({"validation": whole["validation"]}).save_to_disk(str(tmp_path / "untrained"))
    with pytest.raises(ValueError, match="has the splits validation, and none that is called train"):
        hfds.load(configured(tmp_path / "untrained"))


def test_without_the_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return original(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"needs the package datasets: pip install 'xvol\[hfds\]'"):
        hfds.load(configured(tmp_path))
