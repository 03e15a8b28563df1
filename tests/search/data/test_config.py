import subprocess
import sys
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from search.data.config import DataConfig, channels, image_size


def test_it_is_a_structured_config() -> None:
    config = OmegaConf.structured(DataConfig)
    config.train_size = 1000
    assert OmegaConf.to_object(config) == DataConfig(train_size=1000)


def test_it_needs_no_torch() -> None:
    code = "import search.data.config, sys; raise SystemExit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("name", "size", "number"), [("digits", 16, 1), ("fashion_mnist", 28, 1), ("cifar10", 32, 3)])
def test_size_and_channels_are_known_without_loading(name: str, size: int, number: int) -> None:
    config = DataConfig(name=name)
    config.check()
    assert (image_size(config), channels(config)) == (size, number)
    assert image_size(replace(config, image_size=24)) == 24
    assert channels(replace(config, channels=3)) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "cifar"}, r"'cifar' is unknown.*did you mean cifar10"),
        ({"name": "xyzzy"}, r"Choose one of digits, fashion_mnist, cifar10, image_folder$"),
        ({"name": "image_folder"}, r"needs data\.path"),
        ({"name": "image_folder", "path": "x"}, r"needs data\.image_size"),
        ({"channels": 4}, r"data\.channels=4"),
        ({"batch_size": 0}, r"data\.batch_size=0.*at least 1"),
        ({"val_size": 0}, r"data\.val_size=0"),
        ({"val_size": 1.5}, r"data\.val_size=1\.5 is not allowed.*between 0 and 1 is a share"),
        ({"test_size": 1.0}, r"data\.test_size=1\.0 is not allowed"),
        ({"train_size": float("nan")}, r"data\.train_size=nan is not allowed"),
        ({"train_size": -3}, r"data\.train_size=-3"),
        ({"crop_padding": 16}, r"data\.crop_padding=16.*below the image size, 16"),
        ({"split_seed": -1}, r"data\.split_seed=-1"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(DataConfig(), **changes).check()
