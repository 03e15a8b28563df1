"""Objects in pictures: drawn beside each other, and as overlays that W&B takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from search.ledger.pictures import GAP, drawn, overlays, sheet
from search.ledger.tracker import Marked, Picture

MASK = np.zeros((40, 60), bool)
MASK[10:30, 5:25] = True


@pytest.fixture
def picture() -> Picture:
    pixels = np.zeros((40, 60, 3), np.uint8)
    objects = {
        "truth": [Marked((5.0, 10.0, 25.0, 30.0), 1, None, MASK)],
        "prediction": [Marked((6.0, 11.0, 24.0, 29.0), 2, 0.75, MASK)],
    }
    return Picture(pixels, "picture 7", objects, {1: "bag", 2: "boot"})


def test_what_is_true_and_what_is_seen_stand_beside_each_other(picture: Picture) -> None:
    found = drawn(picture)
    scale = 5  # to 256 pixels and more
    assert found.shape == (40 * scale, 2 * 60 * scale + GAP, 3)
    left, right = found[:, : 60 * scale], found[:, 60 * scale + GAP :]
    inside = (scale * 20, scale * 15)
    assert left[inside].any()
    assert right[inside].any()
    assert (left[inside] != right[inside]).any()  # another class, another colour
    assert not left[scale * 20, scale * 50].any()  # outside of the object the picture is as it was


def test_a_picture_without_objects_is_as_it_was() -> None:
    plain = Picture(np.full((4, 5, 1), 7, np.uint8), "cat")
    assert drawn(plain) is plain.pixels
    assert overlays(plain) == {}


def test_a_sheet_holds_all_pictures(picture: Picture) -> None:
    page = sheet([picture] * 3)
    height, width = drawn(picture).shape[:2]
    assert page.size == (2 * width + GAP, 2 * height + GAP)


def test_wandb_takes_boxes_and_masks(picture: Picture, tmp_path: Path) -> None:
    import wandb  # here: it takes seconds

    file = tmp_path / "picture.png"
    PIL.Image.fromarray(picture.pixels).save(file)
    given = overlays(picture)
    assert (given["masks"]["truth"]["mask_data"] == MASK).all()
    (box,) = given["boxes"]["prediction"]["box_data"]
    assert (box["class_id"], box["scores"], box["box_caption"]) == (2, {"score": 0.75}, "boot 0.75")
    image = wandb.Image(str(file), caption=picture.caption, **given)  # which refuses what its pages cannot show
    assert set(image._boxes) == set(image._masks) == {"truth", "prediction"}
