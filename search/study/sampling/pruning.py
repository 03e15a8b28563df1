"""Whether a running trial is stopped early, in studies of one or several objectives.

The rule for several objectives: the intermediate values of the first one decide, as if it were the only one. Optuna's
own `Trial.report` refuses there, so its pruners are shown a view of the study that has one objective.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping
from typing import Any, cast

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from search.study.sampling.samplers import make_pruner
from search.study.trials import INTERRUPTED

# A value of a study with several objectives is kept under this system attribute. As Optuna's intermediate value it would
# break TPE, which asks a study with pruned trials for its only direction.
REPORTED = "reported:"


class Pruning:
    """Takes a trial's intermediate values and asks the pruner about them.

    A trial that was interrupted and is run again under another number, and a finished one that never reported (its
    result was reused), are no rivals of anybody.

    Args:
        study: of one or several objectives.
        pruner_config: as of `hydra.sweeper.pruner`; None never prunes.

    Raises:
        ValueError: unknown pruner or argument.
    """

    def __init__(self, study: optuna.Study, pruner_config: Mapping[str, Any] | None) -> None:
        self._storage = study._storage
        self._several = len(study.directions) > 1
        self._pruner = make_pruner(pruner_config) if pruner_config else None
        self._rivals = _FirstObjective(self._storage, self._several)
        self._view = optuna.Study(
            study.study_name, cast(BaseStorage, self._rivals), sampler=study.sampler, pruner=self._pruner
        )

    def report(self, trial: Trial | FrozenTrial, step: int, value: float) -> None:
        """Keep the first objective's value after `step`. Of two reports of one step the first one counts.

        Raises:
            ValueError: `step` is no whole number from 0, or `value` is no number.
        """
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(f"step={step!r}: a step is a whole number from 0, e.g. the epoch")
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"value={value!r} at step {step}: report the first objective as a number") from None
        if step in self._rivals.get_trial(trial._trial_id).intermediate_values:
            return
        if self._several:
            self._storage.set_trial_system_attr(trial._trial_id, f"{REPORTED}{step}", number)
        else:
            self._storage.set_trial_intermediate_value(trial._trial_id, step, number)

    def should_prune(self, trial: Trial | FrozenTrial) -> bool:
        """Whether the pruner wants the trial stopped, by what it has reported so far."""
        if self._pruner is None:
            return False
        return bool(self._pruner.prune(self._view, self._rivals.get_trial(trial._trial_id)))


class _FirstObjective:
    """A storage as it would be if the first objective were the only one; writes go through to the storage."""

    def __init__(self, storage: BaseStorage, several: bool) -> None:
        self._inner, self._several = storage, several
        self._finished: dict[int, FrozenTrial | None] = {}  # they change no more; None is no rival

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._inner.get_study_directions(study_id)[:1]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._shown(self._inner.get_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        every = self._inner.get_all_trials(study_id, deepcopy=False, states=states)
        rivals = [rival for trial in every if (rival := self._rival(trial)) is not None]
        return copy.deepcopy(rivals) if deepcopy else rivals

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return BaseStorage.get_best_trial(cast(BaseStorage, self), study_id)

    def _rival(self, trial: FrozenTrial) -> FrozenTrial | None:
        if not trial.state.is_finished():
            return self._shown(trial)
        number = trial._trial_id
        if number not in self._finished:
            shown = self._shown(trial)
            self._finished[number] = (
                None if trial.user_attrs.get(INTERRUPTED) or not shown.intermediate_values else shown
            )
        return self._finished[number]

    def _shown(self, trial: FrozenTrial) -> FrozenTrial:
        if not self._several:
            return trial
        shown = copy.copy(trial)
        shown.values = trial.values[:1] if trial.values is not None else None
        shown.intermediate_values = {
            int(name.removeprefix(REPORTED)): value
            for name, value in trial.system_attrs.items()
            if name.startswith(REPORTED)
        }
        return shown
