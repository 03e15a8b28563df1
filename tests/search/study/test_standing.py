"""How a study stands, in words."""

from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import Trial

from search.ledger.record import HISTORY_FILE
from search.space.parameters import Space
from search.study.queue import Budget, TrialQueue
from search.study.spec import StudySpec, final_spec, open_queue
from search.study.standing import Standing
from search.study.trials import CELL, RUNS, SKIPPED


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    return StudySpec(
        study_name="s",
        optuna_name="s",
        study_dir=str(tmp_path),
        phase="search",
        space=Space((), ()),
        directions=("maximize",),
        sampler=None,
        pruner=None,
        budget=Budget(4),
        stop_file=str(tmp_path / "stop"),
        storage=None,
    )


def claimed(queue: TrialQueue) -> Trial:
    trial = queue.claim("worker.lock")
    assert trial is not None
    return trial


def test_a_study_and_its_workers(spec: StudySpec, tmp_path: Path) -> None:
    queue, clock = open_queue(spec), Clock()
    standing = Standing(spec, clock=clock)
    assert standing.lines() == ["search: 0 of 4 trials done, 0 running"]
    first, second = claimed(queue), claimed(queue)
    first.set_user_attr("arm", "plain")
    queue.study.tell(first, 41.234)
    second.set_user_attr("arm", "stage3: pssa")
    second.set_user_attr(RUNS, {"f": "trials/0001-s0"})
    second.report(30.0, 1)
    second.report(38.5, 2)
    (tmp_path / "trials" / "0001-s0").mkdir(parents=True)
    (tmp_path / "trials" / "0001-s0" / HISTORY_FILE).write_text("epoch,val_top1\n1,30\n2,38.5\n")
    clock.now = 60.0
    study, worker = standing.lines()
    assert study == "search: 1 of 4 trials done, 1 running, about 3.0 min to go, best 41.23 (plain)"
    assert worker.startswith("  search 1 [stage3: pssa] for 0 s, epoch 2: 38.5")


def test_what_needed_no_training_is_counted_apart(spec: StudySpec) -> None:
    queue = open_queue(spec)
    trial = claimed(queue)
    trial.set_user_attr(SKIPPED, "reused")
    queue.study.tell(trial, 41.0)
    assert "0 of 4 trials done, 0 running, 1 taken over or refused" in Standing(spec).lines()[0]


@pytest.mark.parametrize("follows", [True, False])
def test_workers_that_go_on_with_the_re_evaluation_are_followed_into_it(spec: StudySpec, follows: bool) -> None:
    spec = replace(spec, budget=Budget(1))
    queue, standing = open_queue(spec), Standing(spec, then=follows)
    trial = claimed(queue)
    final = open_queue(final_spec(spec, 2))
    final.write([{CELL: "a", "overrides": []}, {CELL: "b", "overrides": []}])
    assert standing.lines()[0].startswith("search: 0 of 1 trials done, 1 running")
    queue.study.tell(trial, 1.0)
    claimed(final)
    expected = "final: 0 of 2 trials done, 1 running" if follows else "search: 1 of 1 trials done, 0 running"
    assert standing.lines()[0].startswith(expected)
