"""First points of a search by a zero-cost score: an offer to the user, never a silent selector."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import optuna
from omegaconf import DictConfig

from search.space.parameters import Space
from search.study.options import WarmStartOptions
from search.study.sampling.proposal import suggest

__all__ = ["first_points"]

log = logging.getLogger("xvol")


def first_points(
    options: WarmStartOptions,
    space: Space,
    compose: Callable[[list[str]], DictConfig],
    score: Callable[[DictConfig, list[str]], dict[str, float]],
) -> list[dict[str, Any]]:
    """The `top` of `candidates` random points, the highest score first.

    Args:
        compose: from overrides to a trial's config.
        score: scores of an untrained network by their names; ValueError for one that is not known.
    """
    assert options.score is not None
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points: dict[str, dict[str, Any]] = {}
    for _ in range(options.candidates):
        trial = study.ask()
        point = {p.name: suggest(trial, p.name, p.distribution) for p in space.parameters}
        points.setdefault(repr(sorted(point.items())), point)
    log.info("scoring %d untrained networks by %s, for the first %d trials", len(points), options.score, options.top)
    scored = []
    for point in points.values():
        value = score(compose(space.overrides(point)), [options.score])[options.score]
        if value == value:  # a score that is no number says nothing
            scored.append((value, point))
    scored.sort(key=lambda pair: -pair[0])
    return [point for _, point in scored[: options.top]]
