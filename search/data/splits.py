"""Which images train, validate and test: drawn by class shares from labels alone, so before any image is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from search.data.config import DataConfig

PARTS = ("train", "val", "test")


class Splits(NamedTuple):
    """Indices into a data set, each int64, without repeats; no index is in two of the first three, which ascend.

    Attributes:
        probe: of validation, then of what no part has taken; what is put out for them is kept. See `DataConfig.probe_size`.
    """

    train: Tensor
    val: Tensor
    test: Tensor
    probe: Tensor

    def probed(self, with_test: bool) -> Tensor:
        """The probe set, and behind it the test part where a trial may see it; empty where nothing is to be kept."""
        return torch.cat([self.probe, self.test]) if with_test and len(self.probe) else self.probe

    def part_of(self, index: Tensor) -> np.ndarray:
        """Which of `PARTS` each index is of; "train" is said of what no part has taken, too."""
        inside = [torch.isin(index, part).numpy() for part in (self.val, self.test)]
        return np.select(inside, ["val", "test"], "train")


class Labelled(NamedTuple):
    """What is known of images before they are decoded.

    Attributes:
        labels: int64 of shape (N,), in the order: training part, official validation part, official test part.
        classes: The class names, in label order.
        official_val: How many images before the test part are the official validation set.
        official_test: How many of the last images are the official test set.
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    official_val: int = 0
    official_test: int = 0

    @classmethod
    def of_parts(cls, labels: np.ndarray, classes: tuple[str, ...], counts: Mapping[str, int]) -> Labelled:
        """Of images in the order of `PARTS`; where only one part is held out of training, it is the test set."""
        val, test = counts.get("val", 0), counts.get("test", 0)
        return cls(labels, classes, val, test) if test else cls(labels, classes, 0, val)


def joined(parts: Mapping[str, tuple[Sequence[str], np.ndarray]], where: str) -> Labelled:
    """The labels of all parts in the class order of the training part.

    Args:
        parts: class names and labels, int64 (N,), of each of `PARTS` that is there; "train" is.
        where: they come from, in words.

    Raises:
        ValueError: there are fewer than two classes, a part has no images or a class that is not trained.
    """
    classes = list(parts["train"][0])
    if len(classes) < 2:
        raise ValueError(f"{where} holds the classes {', '.join(classes) or 'none'}; at least 2 are needed.")
    labels, counts = [], {}
    for part in PARTS:
        if part not in parts:
            continue
        names, numbers = parts[part]
        strange = sorted({names[number] for number in np.unique(numbers)} - set(classes))
        if strange or not len(numbers):
            fault = f"classes that train has not: {', '.join(strange)}" if strange else "no pictures"
            raise ValueError(f"{where}: its part {part} has {fault}.")
        known = np.array([classes.index(name) if name in classes else -1 for name in names], dtype=np.int64)
        labels.append(known[numbers])
        counts[part] = len(numbers)
    return Labelled.of_parts(np.concatenate(labels), tuple(classes), counts)


def split_labels(images: Labelled, config: DataConfig) -> Splits:
    """Draw the three parts, each with the class shares of what it is drawn from.

    Test comes first and from the official test part if there is one, then validation, then training: so neither
    test nor validation changes with train_size, and test does not change with val_size.

    Raises:
        ValueError: If a part is larger than what is there, a class is left without training images, or the batch
            is larger than the training part.
    """
    labels = images.labels
    everything = np.arange(len(labels))
    held_out = images.official_val + images.official_test
    rest, official_val, official_test = np.split(
        everything, [len(labels) - held_out, len(labels) - images.official_test]
    )
    own = len(rest)
    # RandomState, because NumPy promises that its stream never changes: a split outlives library versions.
    random = np.random.RandomState(config.split_seed)

    if images.official_test:
        size = count_of(config.test_size, len(official_test), len(official_test))
        test, _ = _draw(official_test, labels, size, "test", "the official test part", random)
    else:
        size = count_of(config.test_size, own, max(own // 5, 1))
        test, rest = _draw(rest, labels, size, "test", "the images", random)
    if images.official_val:
        size = count_of(config.val_size, len(official_val), len(official_val))
        val, _ = _draw(official_val, labels, size, "val", "the official validation part", random)
    else:
        size = count_of(config.val_size, own, max(own // 5, 1))
        val, rest = _draw(rest, labels, size, "val", "what the test part leaves", random)
    size = count_of(config.train_size, own, len(rest))
    train, unused = _draw(rest, labels, size, "train", "what validation and test leave", random)
    _check_training(labels[train], images.classes, config)

    if config.probe_size > len(val) + len(unused):
        raise ValueError(
            f"data.probe_size={config.probe_size} is too large: there are {len(val)} validation images and {len(unused)} "
            "training images that are left over. Ask for fewer, or lower data.train_size."
        )
    from_val = min(config.probe_size, len(val))
    probe = [
        _draw(pool, labels, size, "probe", "", random)[0]
        for pool, size in ((val, from_val), (unused, config.probe_size - from_val))
    ]
    return Splits(*(torch.from_numpy(part) for part in (train, val, test, np.concatenate(probe))))


def count_of(size: int | float | None, of: int, default: int) -> int:
    """How many images a configured size is: a count, a share (below 1) of `of` images and at least one, or `default`."""
    if size is None:
        return default
    return max(round(size * of), 1) if isinstance(size, float) else size


def _draw(
    pool: np.ndarray, labels: np.ndarray, size: int, part: str, origin: str, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Take `size` indices from the pool, stratified; return them and what is left, both ascending."""
    if size > len(pool):
        raise ValueError(f"data.{part}_size={size} is too large: {origin} holds {len(pool)} images. Ask for fewer.")
    shuffled = random.permutation(pool)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels[pool]) if len(pool) else np.zeros(0, dtype=np.int64)
    ends = np.cumsum(counts)
    taken = np.zeros(len(pool), dtype=bool)
    for end, count, share in zip(ends, counts, shares(counts, size), strict=True):
        taken[end - count : end - count + share] = True
    return np.sort(by_class[taken]), np.sort(by_class[~taken])


def shares(counts: np.ndarray, size: int) -> np.ndarray:
    """Divide `size` among classes in proportion to their counts, by largest remainders.

    Args:
        counts: int64 of shape (classes,), the images of each class.
        size: How many to divide, at most the sum of the counts.

    Returns:
        int64 of shape (classes,): sums to `size`, nowhere above `counts`, and less than 1 off the exact quota.
    """
    total = max(int(counts.sum()), 1)
    share, remainder = np.divmod(counts * size, total)
    largest = np.argsort(-remainder, kind="stable")[: size - int(share.sum())]
    share[largest] += 1
    return share


def _check_training(labels: np.ndarray, classes: tuple[str, ...], config: DataConfig) -> None:
    empty = [
        name for name, count in zip(classes, np.bincount(labels, minlength=len(classes)), strict=True) if not count
    ]
    if empty:
        raise ValueError(
            f"The training part of {len(labels)} images has none of the classes {', '.join(empty[:5])}. Raise "
            "data.train_size, or lower data.val_size and data.test_size."
        )
    if config.batch_size > len(labels):
        raise ValueError(
            f"data.batch_size={config.batch_size} is larger than the training part of {len(labels)} images. "
            f"Choose at most {len(labels)}."
        )
