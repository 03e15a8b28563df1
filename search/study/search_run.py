"""A study that is a search: a sampler proposes trials, the best are written down, and trained again on fresh seeds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search import stats
from search.ledger.files import write_atomic
from search.ledger.secrets import masked_tree
from search.ledger.study_files import OBJECTIVES_FILE
from search.space.parameters import Space
from search.study.command import MAX_CHECKS, check_objectives, refuse_dead_parameters, searched_seeds
from search.study.options import FinalOptions, directions_of
from search.study.queue import TrialQueue
from search.study.recovery import mend_lost, recover
from search.study.sampling.samplers import first_points, is_grid
from search.study.spec import StudySpec, final_spec, open_queue, storage_of
from search.study.sweeper import BASELINE_HASH, StudyRun, fresh_seed, raise_if_nothing_worked
from search.study.trials import CELL

log = logging.getLogger("xvol")
RESULTS_FILE = "optimization_results.yaml"
_CHOSE = """\
# The value chose this point among {n} finished trials, so it looks better than the point is. What it is worth on fresh
# seeds and test images tells the re-evaluation (hydra.sweeper.final.top_k), in tables/.
"""


class SearchRun(StudyRun):
    """Runs `hydra.sweeper.n_trials` trials of a space, and the re-evaluation of the best."""

    def train(self, spec: StudySpec) -> TrialQueue:
        """Run, or go on with, the search."""
        points = spec.space.grid() if is_grid(self.options.sampler) else None
        spec, queue = self.open(spec, lambda: self._check(spec.space))
        then = self._re_evaluation(spec)
        if points is None:
            self._warm_start(spec, queue)
        self.run_phase(
            spec,
            lambda queue: 0 if points is None else queue.write_points(points),
            then=then,
            then_trials=0 if then is None else then.most_trials,
        )
        raise_if_nothing_worked(queue)
        write_best(queue.study, self.study_dir)
        print_front(self.study_dir)
        final = None if then is None else then(queue, spec)
        if then is not None and final is not None:
            self.run_phase(final, lambda finals: finals.write(then.cells(queue, spec)), retry=False)
        return queue

    def _re_evaluation(self, spec: StudySpec) -> ReEvaluation | None:
        """What follows the search; of one that was begun, the cells that have failed until now are run again."""
        options = self.options.final
        if not options.top_k:
            return None
        begun = final_spec(spec, 0)
        if begun.optuna_name in optuna.get_all_study_names(storage_of(spec)):
            queue = open_queue(begun)
            recover(queue, begun)
            mend_lost(queue, begun)
            self.retry_failed(begun)
        searched = searched_seeds(self.config, spec.space, options.seed_key, spec.seeds_per_trial)
        return ReEvaluation(options, frozenset(searched))

    def _check(self, space: Space) -> dict[str, Any]:
        """Compose, and let the application check, the baseline and each level of each parameter; return the baseline's facts."""
        final = self.options.final
        # without a check, one of them shows whether the keys compose
        points = space.variations()[: MAX_CHECKS if self.app.checks else 1]
        configs = [self.trial_config([*space.fixed, *final.baseline, *final.overrides])]
        configs += [self.trial_config(space.overrides(point)) for point in points]
        for config in configs:
            self.app.check_values(config)
        if not self.app.checks:
            return {}
        refuse_dead_parameters(space, points, configs[1:])
        log.info("checking %d configurations of the study before it starts", len(configs))
        facts = [self.asked.check(config) for config in configs]
        for fact in facts:
            check_objectives(fact, directions_of(self.options))
        return facts[0]

    def _warm_start(self, spec: StudySpec, queue: TrialQueue) -> None:
        options = self.options.warm_start
        if options.score is None or queue.trials():
            return
        queue.suggest(first_points(options, spec.space, self.trial_config, self.asked.score))


@dataclass(frozen=True)
class ReEvaluation:
    """What follows a search: its best arms and the baseline, trained again on fresh seeds.

    It is sent to the workers, and each goes on with it.

    Args:
        options: of the study.
        searched: seeds that the search trains on.
    """

    options: FinalOptions
    searched: frozenset[int]

    @property
    def most_trials(self) -> int:
        """How many trials it has, where no arm is the baseline."""
        return (self.options.top_k + 1) * self.options.seeds

    def __call__(self, queue: TrialQueue, spec: StudySpec) -> StudySpec | None:
        """Write the best point and the final trials down, and return their phase; None where the search found nothing.

        Args:
            queue: of `spec`; nothing of it is running or to be run.
        """
        if not queue.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return None
        write_best(queue.study, Path(spec.study_dir))
        cells = self.cells(queue, spec)
        final = replace(final_spec(spec, len(cells)), constraints=())
        if open_queue(final).write(cells):
            arms, first = len(cells) // self.options.seeds, cells[0][CELL].rpartition("/")[2]
            log.info("final: %d arms, the baseline among them, on %d seeds from %s on", arms, self.options.seeds, first)
        return final

    def cells(self, search: TrialQueue, spec: StudySpec) -> list[dict[str, Any]]:
        """The final trials, as `TrialQueue.write` takes them."""
        options, baseline_hash = self.options, search.study.user_attrs.get(BASELINE_HASH)
        if options.first_seed is None:
            there = open_queue(final_spec(spec, 0)).trials()
            options = replace(options, first_seed=fresh_seed(spec.study_name, "final", there, self.searched))
        return final_cells(best_arms(search.study, options.top_k, baseline_hash), spec.space, options, baseline_hash)


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
        front = stats.on_front(means, higher)
        return [group[0] for group, member in zip(groups, front, strict=True) if member][:top_k]
    ranked = np.argsort(-means[:, 0] if higher[0] else means[:, 0], kind="stable")
    return [groups[position][0] for position in ranked[:top_k]]


def final_cells(
    arms: Sequence[FrozenTrial], space: Space, options: FinalOptions, baseline_hash: str | None
) -> list[dict[str, Any]]:
    """The final trials as user attributes for `TrialQueue.write`, all arms at one seed before the next seed.

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


def _overrides(trial: FrozenTrial, space: Space) -> list[str]:
    known = {parameter.name for parameter in space.parameters}
    others = (f"{name}={value}" for name, value in trial.params.items() if name not in known)
    return [*space.overrides(trial.params), *others]


def print_front(study_dir: Path) -> None:
    """Print the Pareto front of a search with several objectives; nothing where there is one."""
    if not (study_dir / OBJECTIVES_FILE).exists():
        return
    # pandas: not for a search with one objective, and not before a mistake is told
    from search.report.front import front_table, fronts_of
    from search.report.reading.load import load_study
    from search.report.render import render_text

    for front in fronts_of(load_study(study_dir), ("search",)):
        print(f"\n{render_text(front_table(front))}", flush=True)
