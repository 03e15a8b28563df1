"""The final phase, which reads test data: what it is, and which arms of a search are trained again on which seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.space.parameters import Space
from search.stats.front import on_front
from search.study.marks import CELL
from search.study.options import FinalOptions
from search.study.plan import Plan

__all__ = ["best_arms", "final_cells", "final_plan", "seeds_there"]


def final_plan(plan: Plan, cells: int) -> Plan:
    """The phase that trains written-down cells to their end and reads test data."""
    return replace(
        plan,
        optuna_name=f"{plan.study_name}.final",
        phase="final",
        sampler={"_target_": "optuna.samplers.RandomSampler"},
        pruner=None,
        custom_search_space=None,
        # a failed cell is shown in the table, it does not hide the others
        quota=replace(plan.quota, budget=cells, sampled=False, allowed_failures=None),
        seeds_per_trial=1,
    )


def best_arms(study: optuna.Study, top_k: int, baseline_hash: str | None = None) -> list[FrozenTrial]:
    """One trial for each of the `top_k` best distinct architectures, best first.

    Trials of one architecture count once, by their mean. With several objectives those on the Pareto front of the means
    are taken, in the order of the trials.

    Args:
        baseline_hash: architecture hash of the baseline, which is trained again in any case and takes nobody's place.
    """
    arms: dict[str, list[FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        arch = trial.user_attrs.get("arch_hash")
        if arch is None or arch != baseline_hash:
            arms.setdefault(arch or repr(sorted(trial.params.items())), []).append(trial)
    higher = [direction == StudyDirection.MAXIMIZE for direction in study.directions]
    groups = list(arms.values())
    means = np.array([np.mean([trial.values for trial in group], axis=0) for group in groups]).reshape(-1, len(higher))
    if len(higher) > 1:
        front = on_front(means, higher)
        return [group[0] for group, member in zip(groups, front, strict=True) if member][:top_k]
    ranked = np.argsort(-means[:, 0] if higher[0] else means[:, 0], kind="stable")
    return [groups[position][0] for position in ranked[:top_k]]


def final_cells(
    arms: Sequence[FrozenTrial], space: Space, options: FinalOptions, baseline_hash: str | None
) -> list[dict[str, Any]]:
    """The final trials as user attributes for `Desk.write`, all arms at one seed before the next seed.

    In that order an interrupted re-evaluation is balanced, and drift of the machine falls on all arms alike.

    Args:
        options: with `first_seed`, see `first_seed_of`.
        baseline_hash: architecture hash of the baseline, where known: an arm equal to it is not trained twice.
    """
    assert options.first_seed is not None
    overrides: dict[str, list[str]] = {"baseline": [*space.fixed, *options.baseline, *options.overrides]}
    for trial in arms:
        name = str(trial.user_attrs.get("arch_hash") or f"trial {trial.number}")
        if name != baseline_hash:
            overrides[name] = [*_overrides(trial, space), *options.overrides]
    return [
        {
            "cell": f"{name}/{seed}",
            "overrides": [*lines, f"{options.seed_key}={seed}"],
            "is_baseline": name == "baseline",
        }
        for seed in range(options.first_seed, options.first_seed + options.seeds)
        for name, lines in overrides.items()
    ]


def seeds_there(trials: Sequence[FrozenTrial]) -> set[int]:
    """The seeds of the cells that are written down already, finished or not."""
    seeds = (str(trial.user_attrs.get(CELL, "")).rpartition("/")[2] for trial in trials)
    return {int(seed) for seed in seeds if seed.isdigit()}


def _overrides(trial: FrozenTrial, space: Space) -> list[str]:
    values: Mapping[str, Any] = trial.params
    known = {parameter.name for parameter in space.parameters}
    return [*space.overrides(values), *(f"{name}={value}" for name, value in values.items() if name not in known)]
