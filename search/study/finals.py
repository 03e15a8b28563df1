"""The final phase, which reads test data: what it is, and which arms of a search are trained again on which seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.space.parameters import Space
from search.study.options import FinalOptions
from search.study.plan import Plan

__all__ = ["best_arms", "final_cells", "final_plan"]


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

    Trials of one architecture count once, by their mean. With several objectives the Pareto front is taken, in the
    order of the trials.

    Args:
        baseline_hash: architecture hash of the baseline, which is trained again in any case and takes nobody's place.
    """
    arms: dict[str, list[FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        arch = trial.user_attrs.get("arch_hash")
        if arch is None or arch != baseline_hash:
            arms.setdefault(arch or repr(sorted(trial.params.items())), []).append(trial)
    signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in study.directions]
    if len(signs) > 1:
        costs = {t.number: [s * v for s, v in zip(signs, t.values, strict=True)] for g in arms.values() for t in g}
        front = {
            number for number, cost in costs.items() if not any(_dominates(other, cost) for other in costs.values())
        }
        groups = [group for group in arms.values() if any(trial.number in front for trial in group)]
        return [group[0] for group in groups[:top_k]]
    ranked = sorted(arms.values(), key=lambda group: signs[0] * statistics.fmean(trial.value for trial in group))  # type: ignore[misc]
    return [group[0] for group in ranked[:top_k]]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is at least as low everywhere, and lower somewhere."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and list(one) != list(other)


def final_cells(
    arms: Sequence[FrozenTrial], space: Space, options: FinalOptions, baseline_hash: str | None
) -> list[dict[str, Any]]:
    """The final trials as user attributes for `Desk.write`, all arms at one seed before the next seed.

    In that order an interrupted re-evaluation is balanced, and drift of the machine falls on all arms alike.

    Args:
        baseline_hash: architecture hash of the baseline, where known: an arm equal to it is not trained twice.
    """
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


def _overrides(trial: FrozenTrial, space: Space) -> list[str]:
    values: Mapping[str, Any] = trial.params
    known = {parameter.name for parameter in space.parameters}
    return [*space.overrides(values), *(f"{name}={value}" for name, value in values.items() if name not in known)]
