"""The variance of a paired difference, and its parts: the images, the luck of a training, and, of shared starts, order and root.

Of one arm and the baseline, image i scored by both of training o on root r, the difference is taken to be

    d(r, o, i) = mean + R(r) + O(r, o) + I(i) + RI(r, i) + OI(r, o, i)

all parts independent with mean zero (a crossed and nested design; Searle, Casella and McCulloch 1992, chapter 5). Where each
training starts from scratch, each is a root of its own with one order, and R is the luck of a training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

HOUR = 3600.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Components:
    """Variances of the parts of a difference on one image, in squared units of the score; an estimate may fall below zero.

    Attributes:
        root: between roots, whatever images there are; of trainings from scratch between seeds.
        order: between orders on one root; 0 where each root has one.
        image: of what an image adds in every training: more seeds do not average it out.
        root_image, order_image: of what an image adds in all trainings of one root, or in a single training.
    """

    root: float
    order: float
    image: float
    root_image: float
    order_image: float

    def parts(self, roots: float, orders: float, images: float) -> dict[str, float]:
        """Variances that the parts leave to the mean over so many roots, orders of each, and images; what is below zero counts as 0."""
        over = {
            "root": roots,
            "order": roots * orders,
            "image": images,
            "root_image": roots * images,
            "order_image": roots * orders * images,
        }
        return {name: max(getattr(self, name), 0.0) / count for name, count in over.items()}

    def of_mean(self, roots: float, orders: float, images: float) -> float:
        """Variance of the mean difference over so many roots, orders of each, and images, for others than these too."""
        return sum(self.parts(roots, orders, images).values())


def components(differences: np.ndarray, roots: np.ndarray) -> Components:
    """Estimate the parts without bias, from averages of products of two differences that share a part or not.

    Of a balanced design these are the estimates of the analysis of variance; it need not be balanced.

    Args:
        differences: float64 (trainings, images), at least two images.
        roots: (trainings,), equal where trainings start from one root; at least two different ones.
    """
    trainings, images = differences.shape
    same = roots[:, None] == roots[None, :]
    if images < 2 or same.all():
        raise ValueError(
            f"components of variance need two images and two roots at least: {images} images of {trainings} trainings"
        )
    centred = differences - differences.mean()
    sums = centred.sum(axis=1)
    on_one_image = centred @ centred.T / images
    on_two = (np.outer(sums, sums) - images * on_one_image) / (images * (images - 1))
    itself = np.eye(trainings, dtype=bool)
    one, two = ([float(each[pairs].mean()) for pairs in (itself, ~same)] for each in (on_one_image, on_two))
    mates = same & ~itself
    if not mates.any():
        root, image = two[0] - two[1], one[1] - two[1]
        return Components(root=root, order=0.0, image=image, root_image=one[0] - two[0] - image, order_image=0.0)
    mates_one, mates_two = float(on_one_image[mates].mean()), float(on_two[mates].mean())
    image = one[1] - two[1]
    return Components(
        root=mates_two - two[1],
        order=two[0] - mates_two,
        image=image,
        root_image=mates_one - mates_two - image,
        order_image=(one[0] - two[0]) - (mates_one - mates_two),
    )


def pooled(estimates: Sequence[Components], weights: Sequence[float]) -> Components:
    """The weighted mean of estimates, part by part, before one below zero counts as 0; weights such as degrees of freedom."""
    names = [part.name for part in fields(Components)]
    means = np.average([[getattr(each, name) for name in names] for each in estimates], axis=0, weights=weights)
    return Components(**dict(zip(names, means.tolist(), strict=True)))


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What more of each takes, in seconds, for all arms and the baseline together; None where it cannot be had or is not known.

    Attributes:
        training: one more training of each arm on one root.
        root: a new root, before the arms are trained on it; 0 for trainings from scratch.
        image: one image, through one network of each arm.
    """

    training: float
    root: float | None = 0.0
    image: float | None = None


def next_hour(
    parts: Components, roots: float, orders: float, images: float, prices: Prices, seconds: float = HOUR
) -> dict[str, tuple[float, float]]:
    """How many more of what so many seconds buy, and the variance of the mean difference then: by "root", "order" and "image".

    Each is bought alone: roots with as many orders as the others have, orders on every root, images for every network. "order" is left
    out where each root has one and order is no part of its own (trainings from scratch); what has no price too.
    """
    found: dict[str, tuple[float, float]] = {}
    if prices.root is not None:
        more = seconds / (prices.root + orders * prices.training)
        found["root"] = more, parts.of_mean(roots + more, orders, images)
    if parts.order or parts.order_image:
        more = seconds / (roots * prices.training)
        found["order"] = more, parts.of_mean(roots, orders + more, images)
    if prices.image:
        more = seconds / (roots * orders * prices.image)
        found["image"] = more, parts.of_mean(roots, orders, images + more)
    return found
