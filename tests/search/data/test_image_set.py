from __future__ import annotations

import zlib
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from search.data.image_set import ImageSet

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
