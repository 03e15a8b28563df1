"""How a study ends: its best points, trained again on fresh seeds, and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.ledger.files import write_atomic
from search.ledger.secrets import masked_tree
from search.ledger.study_files import OBJECTIVES_FILE
from search.space.parameters import Space
from search.stats.front import on_front
from search.study.options import FinalOptions
from search.study.spec import Plan
from search.study.trials import CELL

RESULTS_FILE = "optimization_results.yaml"
_CHOSE = """\
# The value chose this point among {n} finished trials, so it looks better than the point is. What it is worth on fresh
# seeds and test images tells the re-evaluation (hydra.sweeper.final.top_k), in tables/.
"""


def write_best(study: optuna.Study, folder: Path) -> Path:
    """Write the best point of a study that has finished trials.

    With one objective: `best_params` and `best_value`. With several: `solutions`, the Pareto front in the order of the
    trials, each with `params` and `values`.

    Returns:
        The file, `folder/optimization_results.yaml`.
    """
    found: dict[str, Any] = {"name": "optuna"}
    if len(study.directions) == 1:
        best = study.best_trial
        found |= {"best_params": dict(best.params), "best_value": best.value}
    else:
        front = sorted(study.best_trials, key=lambda trial: trial.number)
        found["solutions"] = [{"params": dict(trial.params), "values": list(trial.values)} for trial in front]
    finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    text = yaml.safe_dump(masked_tree(found), sort_keys=False, allow_unicode=True)
    write_atomic(folder / RESULTS_FILE, _CHOSE.format(n=len(finished)) + text)
    return folder / RESULTS_FILE


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


def print_front(study_dir: Path) -> None:
    """Print the Pareto front of a search with several objectives; nothing where there is one."""
    if not (study_dir / OBJECTIVES_FILE).exists():
        return
    from search.report.front import front_table, fronts_of
    from search.report.reading.load import load_study
    from search.report.render import render_text

    for front in fronts_of(load_study(study_dir), ("search",)):
        print(f"\n{render_text(front_table(front))}", flush=True)


def write_study_tables(study_dir: Path) -> None:
    """Write and print the ablation table, and the verdicts of a design with looks; then send the table to W&B.

    Nothing is done for a task of another application, which keeps no ledger.
    """
    if not any(study_dir.glob("*/*/result.json")):
        return
    from search.report.mirror import mirror_study
    from search.report.render import render_text
    from search.report.write import write_interim, write_tables

    table = write_tables(study_dir)
    print(f"\n{render_text(table)}", flush=True)
    verdicts = write_interim(study_dir)
    if verdicts is not None:
        print(f"\n{render_text(verdicts)}", flush=True)
    print(f"\nRun folder: {study_dir}\nTables:     {study_dir / 'tables'}", flush=True)
    mirror_study(study_dir, table)  # last: what it waits for, nobody else waits for
