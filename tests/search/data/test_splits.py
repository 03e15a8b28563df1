from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search.data.config import DataConfig
from search.data.splits import Labelled, joined, shares, split_labels


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
    assert [part.tolist() for part in parts[1:3]] == [[13, 17, 26, 28], [15, 20, 22, 25]]


@pytest.mark.parametrize("size", [4, 10, 30])
def test_the_probe_set_is_of_validation_and_then_of_what_is_left_over(size: int) -> None:
    images, config = labelled([50, 50]), replace(CONFIG, train_size=40)
    plain, parts = split_labels(images, config), split_labels(images, replace(config, probe_size=size))
    # nobody's split changes
    assert all(torch.equal(one, other) for one, other in zip(parts[:3], plain[:3], strict=True))
    assert len(plain.probe) == len(plain.probed(with_test=True)) == 0
    assert len(parts.probe.unique()) == size
    assert torch.equal(parts.probed(with_test=True), torch.cat([parts.probe, parts.test]))
    assert torch.bincount(torch.from_numpy(images.labels)[parts.probe]).tolist() == [size // 2] * 2
    said = parts.part_of(parts.probed(with_test=True)).tolist()
    assert said == ["val"] * min(size, 10) + ["train"] * max(size - 10, 0) + ["test"] * 10
    assert not set(parts.probe.tolist()) & set(parts.train.tolist())


def test_a_probe_set_that_cannot_be_had_is_told() -> None:
    with pytest.raises(ValueError, match=r"probe_size=51 .*10 validation images and 40 training images"):
        split_labels(labelled([50, 50]), replace(CONFIG, train_size=40, probe_size=51))


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
    assert [len(part) for part in parts[:3]] == [70, 10, 20]


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
    assert [len(part) for part in found[:3]] == parts


def test_a_share_of_an_official_part_is_of_that_part() -> None:
    images = labelled([40, 40], official_val=16, official_test=20)
    whole = split_labels(images, replace(CONFIG, val_size=None, test_size=None))
    assert [len(part) for part in whole[:3]] == [44, 16, 20]
    found = split_labels(images, replace(CONFIG, val_size=0.5, test_size=0.5, train_size=0.5))
    assert [len(part) for part in found[:3]] == [22, 8, 10]


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


def test_parts_are_joined_by_the_names_of_classes() -> None:
    train, val = np.array([0, 1, 2]), np.array([0, 0, 1])
    parts = {"train": (["cat", "bird", "dog"], train), "val": (["bird", "dog"], val)}
    whole = joined(parts, "x")
    assert (whole.labels.tolist(), whole.classes) == ([0, 1, 2, 1, 1, 2], ("cat", "bird", "dog"))
    assert (whole.official_val, whole.official_test) == (0, 3), "the one part that is held out is the test set"
    both = joined(parts | {"test": (["cat"], np.array([0]))}, "x")
    assert (both.labels.tolist()[-4:], both.official_val, both.official_test) == ([1, 1, 2, 0], 3, 1)


@pytest.mark.parametrize(
    ("val", "message"),
    [
        ((["cat", "fox"], np.array([1, 1])), "x: its part val has classes that train has not: fox"),
        ((["cat"], np.array([], dtype=np.int64)), "x: its part val has no pictures"),
    ],
)
def test_parts_that_do_not_fit_are_refused(val: tuple[list[str], np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        joined({"train": (["cat", "dog"], np.array([0, 1])), "val": val}, "x")
