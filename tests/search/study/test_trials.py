"""Counting a study trial by trial gives what counting it at once gives."""

from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.study.trials import INTERRUPTED, RETRY_OF, SKIPPED, Tally, in_list

from .conftest import count


def trial(number: int, state: TrialState, **attributes: object) -> FrozenTrial:
    frozen = create_trial(state=state, value=1.0 if state == TrialState.COMPLETE else None, user_attrs=dict(attributes))
    frozen.number = number
    return frozen


def test_what_counts_towards_the_budget() -> None:
    trials = [
        trial(0, TrialState.COMPLETE),
        trial(1, TrialState.PRUNED),
        trial(2, TrialState.FAIL),
        trial(3, TrialState.FAIL, **{INTERRUPTED: True}),
        trial(4, TrialState.COMPLETE, **{SKIPPED: "reused"}),
        trial(5, TrialState.FAIL, **{SKIPPED: "infeasible"}),
        trial(6, TrialState.FAIL),
        trial(7, TrialState.WAITING, **{RETRY_OF: 6}),
        trial(8, TrialState.RUNNING),
    ]
    now = count(trials)
    assert vars(now) == {"complete": 1, "pruned": 1, "failed": 1, "running": 1, "waiting": 1, "skipped": 2}
    assert now.finished == 3


def test_a_streak_of_skipped_trials_ends_with_one_that_was_trained() -> None:
    tally = Tally()
    skipped = [trial(n, TrialState.COMPLETE, **{SKIPPED: "reused"}) for n in range(3)]
    tally.read(in_list(skipped))
    assert tally.streak == 3
    tally.read(in_list([*skipped, trial(3, TrialState.COMPLETE)]))
    assert tally.streak == 0


STATES = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]


@given(
    st.lists(
        st.tuples(st.sampled_from(STATES), st.sampled_from(["", INTERRUPTED, SKIPPED, RETRY_OF]), st.booleans()),
        max_size=30,
    )
)
def test_looking_in_between_changes_nothing(plan: list[tuple[TrialState, str, bool]]) -> None:
    tally, trials = Tally(), []
    for number, (state, mark, look) in enumerate(plan):
        value = {"": {}, INTERRUPTED: {mark: True}, SKIPPED: {mark: "reused"}, RETRY_OF: {mark: max(0, number - 1)}}[
            mark
        ]
        trials.append(trial(number, state, **value))
        if look:
            tally.read(in_list(trials))
    assert tally.read(in_list(trials)) == count(trials)
    ended = [trial(t.number, TrialState.FAIL if t.state in STATES[3:] else t.state, **t.user_attrs) for t in trials]
    assert tally.read(in_list(ended)) == count(ended)
