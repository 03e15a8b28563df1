"""`optimization_results.yaml`: the best point of a search, in the form in which Hydra's official Optuna sweeper writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import yaml

from search.ledger.files import write_atomic
from search.ledger.secrets import masked_tree

__all__ = ["RESULTS_FILE", "write_best"]

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
