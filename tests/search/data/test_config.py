import subprocess
import sys
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from search.data.config import Augmentation, DataConfig, channels, image_size


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


def test_a_former_name_is_taken_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    assert DataConfig("image_folder", path="x", image_size=8) == DataConfig("folder", path="x", image_size=8)
    assert caplog.messages == ["data.name=image_folder is called folder now."]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": [0.5]}, r"train\.scale=\[0\.5\]: give the smallest and the largest"),
        ({"scale": [0.9, 0.1]}, r"train\.scale=\[0\.9, 0\.1\]: give"),
        ({"scale": [0.0, 1.0]}, r"train\.scale=0\.0: must be above 0 and at most 1"),
        ({"ratio": [-1.0, 1.0]}, r"train\.ratio=-1\.0: must be above 0"),
        ({"aa": "rnd-m9"}, r"train\.aa=rnd: allowed are rand, augmix, .*did you mean rand"),
        ({"color_jitter": -0.1}, r"train\.color_jitter=-0\.1: at least 0, or null for no jitter"),
        ({"train_interpolation": "cubic"}, r"train\.train_interpolation=cubic: allowed are random, bilinear, bicubic"),
        ({"repeats": -1}, r"train\.repeats=-1"),
    ],
)
def test_an_augmentation_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    Augmentation(scale=[0.08, 1.0], ratio=[0.75, 4 / 3], aa="rand-m9-mstd0.5", train_interpolation="random").check()
    with pytest.raises(ValueError, match=message):
        replace(Augmentation(), **changes).check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": -1}, r"data\.workers=-1"),
        ({"in_memory_mb": -1}, r"data\.in_memory_mb=-1"),
        ({"crop_pct": 1.5}, r"data\.crop_pct=1\.5.*at most 1, or null for the backbone's"),
        ({"interpolation": "cubic"}, r"data\.interpolation=cubic: allowed are bilinear, bicubic"),
        ({"path": "x"}, r"data\.path=x is of folder, tar, hfds and coco, and data\.name=digits"),
        ({"name": "cifar"}, r"'cifar' is unknown.*did you mean cifar10"),
        ({"name": "xyzzy"}, r"Choose one of digits, fashion_mnist, cifar10, folder, tar, hfds, coco"),
        ({"name": "wds"}, r"data\.name=wds is not taken: .* order pictures by worker.*Take folder, tar or hfds"),
        ({"name": "hfids/imagenet"}, r"data\.name=hfids/imagenet is not taken"),
        ({"name": "folder"}, r"needs data\.path"),
        ({"name": "folder", "path": "x"}, r"needs data\.image_size"),
        ({"channels": 4}, r"data\.channels=4"),
        ({"batch_size": 0}, r"data\.batch_size=0.*at least 1"),
        ({"val_size": 0}, r"data\.val_size=0"),
        ({"val_size": 1.5}, r"data\.val_size=1\.5 is not allowed.*between 0 and 1 is a share"),
        ({"test_size": 1.0}, r"data\.test_size=1\.0 is not allowed"),
        ({"train_size": float("nan")}, r"data\.train_size=nan is not allowed"),
        ({"train_size": -3}, r"data\.train_size=-3"),
        ({"crop_padding": 16}, r"data\.crop_padding=16.*below the image size, 16"),
        ({"split_seed": -1}, r"data\.split_seed=-1"),
        ({"val": "val.json"}, r"data\.val=val\.json is of coco, and data\.name=digits"),
        ({"backgrounds": "packages"}, r"data\.backgrounds=packages is of garment_scenes and stamp_scenes"),
        ({"backgrounds": "debian"}, r"data\.backgrounds=debian: allowed are sklearn, packages"),
        ({"empty_boxes": "no"}, r"data\.empty_boxes=no: allowed are refuse, skip"),
        ({"name": "coco", "path": "x", "image_size": 8}, r"needs data\.train"),
        ({"name": "coco", "path": "x", "image_size": 8, "train": "x", "val_images": "y"}, r"without data\.val"),
        ({"name": "digit_scenes", "crop_padding": 4}, r"leave out data\.crop_padding"),
        ({"name": "digit_scenes", "channels": 1}, r"leave out data\.crop_padding, data\.channels"),
        ({"name": "digit_scenes", "val_size": 0.2}, r"data\.val_size=0\.2: digit_scenes are made; say how many"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(DataConfig(), **changes).check()
