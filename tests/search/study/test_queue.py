"""Handing trials out and taking them back, in one process."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.ledger.study_files import WORKERS
from search.study.queue import Budget, TrialQueue
from search.study.storage.opening import open_storage
from search.study.storage.waiting import FileLock
from search.study.trials import AWAITS, CELL, INTERRUPTED, IS_ROOT, REASON, ROOT, SKIPPED, WORKER

MakeQueue = Callable[..., TrialQueue]
NOBODY = "nobody.lock"


def ignore(*_: object) -> None:
    """There is no ledger here."""


@pytest.fixture
def make_queue(tmp_path: Path) -> MakeQueue:
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(study_name="s", storage=storage)

    def queue(trials: int = 5, **others: object) -> TrialQueue:
        return TrialQueue(study, storage, tmp_path, Budget(trials, **others))  # type: ignore[arg-type]

    return queue


def states(queue: TrialQueue) -> list[str]:
    return [trial.state.name for trial in queue.trials()]


def test_a_budget_counts_what_is_finished_and_running(make_queue: MakeQueue) -> None:
    queue = make_queue(2)
    first, second = queue.claim(NOBODY), queue.claim(NOBODY)
    assert first is not None
    assert second is not None
    assert queue.claim(NOBODY) is None
    queue.study.tell(first, 1.0)
    assert queue.claim(NOBODY) is None
    assert make_queue(3).claim(NOBODY) is not None


def test_a_phase_is_over_once_none_runs_and_none_is_to_be_run(make_queue: MakeQueue) -> None:
    queue = make_queue(1)
    assert not queue.is_over()
    trial = queue.claim(NOBODY)
    assert trial is not None
    assert queue.to_go() == 0
    assert not queue.is_over()
    queue.study.tell(trial, 1.0)
    assert queue.is_over()
    queue.study.enqueue_trial({})
    assert not queue.is_over()


def test_a_skipped_trial_is_replaced_until_the_space_is_exhausted(make_queue: MakeQueue) -> None:
    queue = make_queue(2, max_skips=3)
    for _ in range(3):
        trial = queue.claim(NOBODY)
        assert trial is not None
        trial.set_user_attr(SKIPPED, "reused")
        queue.study.tell(trial, 1.0)
    assert queue.claim(NOBODY) is None
    assert queue.is_exhausted()
    assert queue.to_go() == 0


def test_a_small_space_is_exhausted_once_each_point_was_asked_for(make_queue: MakeQueue) -> None:
    queue = make_queue(9, size=2)
    for x in (0, 1):
        queue.study.enqueue_trial({"x": x})
        trial = queue.claim(NOBODY)
        assert trial is not None
        trial.suggest_int("x", 0, 1)
        queue.study.tell(trial, 1.0)
    trial = queue.claim(NOBODY)
    assert trial is not None
    trial.suggest_int("x", 0, 1)
    trial.set_user_attr(SKIPPED, "reused")
    queue.study.tell(trial, 1.0)
    assert queue.claim(NOBODY) is None


def test_the_dead_are_recovered_and_the_living_left_alone(make_queue: MakeQueue, tmp_path: Path) -> None:
    queue = make_queue(3)
    with FileLock(tmp_path / WORKERS / "alive.lock"):
        living, dead, elsewhere = queue.claim("alive.lock"), queue.claim("dead.lock"), queue.claim("far.lock")
        assert living is not None
        assert dead is not None
        assert elsewhere is not None
        elsewhere.set_user_attr(WORKER, {"host": "another", "lock": "far.lock"})
        assert dead.suggest_int("x", 0, 100) >= 0
        assert [trial.number for trial in queue.recover(ignore)] == [dead.number]
    again = queue.trials()[3]
    assert again.state == TrialState.WAITING
    assert again.system_attrs["fixed_params"] == dead.params
    assert queue.counts().failed == 0
    retry = queue.claim("w.lock")
    assert retry is not None
    assert [trial.number for trial in queue.attempts(retry)] == [dead.number]
    assert queue.claim("w.lock") is None


def test_a_trial_that_kills_every_worker_is_given_up(make_queue: MakeQueue) -> None:
    queue = make_queue(1, max_retries=2)
    for death in range(3):
        trial = queue.claim(NOBODY)
        assert trial is not None
        trial.suggest_int("x", 0, 100)
        assert [trial.number for trial in queue.recover(ignore)] == [death]
    assert queue.claim(NOBODY) is None
    assert queue.counts().failed == 1
    assert queue.trials()[2].user_attrs[REASON].startswith("its worker died, 3 times in a row")
    assert len({trial.params["x"] for trial in queue.trials()}) == 1


def test_ctrl_c_is_not_held_against_a_trial(make_queue: MakeQueue) -> None:
    queue = make_queue(1, max_retries=0)
    for _ in range(5):
        trial = queue.claim(NOBODY)
        assert trial is not None
        queue.interrupt(trial, "Ctrl-C")
    assert queue.claim(NOBODY) is not None


CELLS = [{CELL: f"a/{seed}", "overrides": [f"seed={seed}"], "is_baseline": True} for seed in (1, 2)]


def test_cells_are_written_once_and_again_after_an_interruption(make_queue: MakeQueue) -> None:
    queue = make_queue(2, sampled=False)
    assert queue.write(CELLS) == 2
    assert queue.write(CELLS) == 0
    trial = queue.claim(NOBODY)
    assert trial is not None
    queue.interrupt(trial, "Ctrl-C")
    assert queue.write(CELLS) == 0
    waiting = [trial for trial in queue.trials() if trial.state == TrialState.WAITING]
    assert sorted(trial.user_attrs[CELL] for trial in waiting) == ["a/1", "a/2"]
    assert [trial.user_attrs["overrides"] for trial in waiting if trial.user_attrs[CELL] == "a/1"] == [["seed=1"]]


def test_a_cell_is_not_lost_if_who_takes_it_back_dies_half_way(make_queue: MakeQueue) -> None:
    queue = make_queue(2, sampled=False)
    queue.write(CELLS)
    trial = queue.claim(NOBODY)
    assert trial is not None
    trial.set_user_attr(INTERRUPTED, True)
    queue.study.tell(trial, state=TrialState.FAIL)
    assert queue.write(CELLS) == 1


def test_failed_cells_are_run_again_unless_they_would_fail_again(make_queue: MakeQueue) -> None:
    queue = make_queue(2, sampled=False, max_retries=3)
    queue.write(CELLS)

    def fail(reason: str) -> None:
        trial = queue.claim(NOBODY)
        assert trial is not None
        trial.set_user_attr(REASON, reason)
        queue.study.tell(trial, state=TrialState.FAIL)

    fail("no luck")
    fail("bad cell")
    assert [trial.number for trial in queue.retry_failed(ignore)] == [0, 1]
    assert queue.retry_failed(ignore) == []
    assert queue.counts().failed == 0
    fail("other luck")
    fail("bad cell")
    assert [trial.number for trial in queue.retry_failed(ignore)] == [2]
    assert queue.counts().failed == 1


def test_a_grid_takes_the_first_points_and_goes_on_later(make_queue: MakeQueue) -> None:
    points = [{"x": x} for x in range(4)]
    assert make_queue(2, sampled=False).write_points(points) == 2
    queue = make_queue(9, sampled=False)
    assert queue.write_points(points) == 2
    asked = []
    while (trial := queue.claim(NOBODY)) is not None:
        asked.append(trial.suggest_categorical("x", [0, 1, 2, 3]))
        queue.study.tell(trial, 0.0)
    assert asked == [0, 1, 2, 3]
    assert queue.write_points(points) == 0


def test_too_many_failures_end_the_handing_out(make_queue: MakeQueue) -> None:
    queue = make_queue(9, allowed_failures=1)
    for _ in range(2):
        trial = queue.claim(NOBODY)
        assert trial is not None
        queue.study.tell(trial, state=TrialState.FAIL)
    assert queue.claim(NOBODY) is None
    assert queue.gave_up


def test_a_trial_that_waits_for_a_run_elsewhere_is_the_same_one_later(make_queue: MakeQueue) -> None:
    queue = make_queue(3)
    trial = queue.claim(NOBODY)
    assert trial is not None
    x = trial.suggest_int("x", 0, 1000)
    queue.put_back(trial, ["fingerprint", "other/trials/0000-s0"])
    due: list[bool] = [False]

    def claim(queue: TrialQueue) -> int | None:
        claimed = queue.claim(NOBODY, lambda waiting: due[0] and waiting.user_attrs[AWAITS][0] == "fingerprint")
        return None if claimed is None else claimed.number

    other = make_queue(3)
    assert [claim(queue), claim(other), claim(queue)] == [1, 2, None]  # its place in the budget is kept
    assert queue.holds
    assert queue.recover(lambda *_: None) != []  # those of nobody: the one that waits is not among them
    due[0] = True
    again = queue.claim(NOBODY, lambda _: True)
    assert again is not None
    assert (again.number, again.suggest_int("x", 0, 1000)) == (trial.number, x)
    assert not queue.holds


def test_a_journal_is_asked_for_open_trials_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(None, tmp_path)
    study = optuna.create_study(study_name="s", storage=storage)
    queue = TrialQueue(study, storage, tmp_path, Budget(60))
    for value in range(50):
        trial = queue.claim(NOBODY)
        assert trial is not None
        study.tell(trial, float(value))
    asked: list[int] = []
    inner = storage.get_trial
    monkeypatch.setattr(storage, "get_trial", lambda number: asked.append(number) or inner(number))
    monkeypatch.setattr(storage, "get_all_trials", lambda *_, **__: pytest.fail("all trials were read"))
    assert queue.claim(NOBODY) is not None
    assert len(asked) < 8
    best, worst = queue.best(highest=True), queue.best(highest=False)
    assert best is not None
    assert worst is not None
    assert (best.number, worst.number, queue.counts().finished) == (49, 0, 50)


def test_a_trial_waits_for_the_end_of_the_one_it_starts_from(make_queue: MakeQueue) -> None:
    queue = make_queue(4, sampled=False)
    queue.write([{CELL: "root/1", IS_ROOT: True}, {CELL: "arm/1", ROOT: "root/1"}, {CELL: "other/2"}])
    root, other = queue.claim(NOBODY), queue.claim(NOBODY)
    assert root is not None
    assert other is not None
    assert (root.user_attrs[CELL], other.user_attrs[CELL]) == ("root/1", "other/2")
    assert queue.claim(NOBODY) is None
    assert queue.holds
    queue.interrupt(root, "stopped")
    again = queue.claim(NOBODY)
    assert again is not None
    assert again.user_attrs[CELL] == "root/1"
    assert again.user_attrs[IS_ROOT]
    assert queue.claim(NOBODY) is None
    assert (queue.counts().running, queue.counts().waiting) == (2, 1)
    queue.study.tell(again, 1.0)
    arm = queue.claim(NOBODY)
    assert arm is not None
    assert arm.user_attrs[CELL] == "arm/1"
    assert queue.root_of(arm).number == again.number  # type: ignore[union-attr]
    assert queue.root_of(other) is None


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED])
def test_a_root_that_came_to_nothing_lets_its_trials_go_on_to_say_so(make_queue: MakeQueue, state: TrialState) -> None:
    queue = make_queue(4, sampled=False)
    queue.write([{CELL: "root/1"}, {CELL: "arm/1", ROOT: "root/1"}])
    root = queue.claim(NOBODY)
    assert root is not None
    queue.study.tell(root, state=state)
    assert queue.claim(NOBODY) is not None


def test_a_root_that_is_run_again_is_waited_for_again(make_queue: MakeQueue) -> None:
    queue = make_queue(4, sampled=False)
    queue.write([{CELL: "root/1"}, {CELL: "arm/1", ROOT: "root/1"}])
    root = queue.claim(NOBODY)
    assert root is not None
    queue.study.tell(root, state=TrialState.FAIL)
    queue.retry_failed(ignore)
    again = queue.claim(NOBODY)
    assert again is not None
    assert again.user_attrs[CELL] == "root/1"
    assert queue.claim(NOBODY) is None
