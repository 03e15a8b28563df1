"""The table of tasks, and the evaluators of one pass."""

from __future__ import annotations

import subprocess
import sys
import types
from dataclasses import replace

import pytest
import torch

from search.config import Config
from search.ledger import metric as metrics
from search.tasks import base
from search.tasks.base import Scores, check_task, task_named, task_names
from search.tasks.classify import Classify

CPU = torch.device("cpu")


class Best:
    """Somebody's metric of classification: the largest logit."""

    def __init__(self) -> None:
        self.largest = 0.0

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        self.largest = max(self.largest, float(output.max()))

    def compute(self, distributed: bool = False) -> dict[str, float]:
        return {"best": self.largest}


def _scored(split: str, output: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    scores = Scores(Classify(), Config(), split, CPU)
    scores.update(output, target)
    return scores.compute()


def test_names_are_known_without_torch() -> None:
    code = (
        "import sys; from search.tasks.base import task_names, check_task; from search.data.sources import source_names\n"
        "check_task('classify'); print(task_names(), source_names()); raise SystemExit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_task_is_made_by_its_name() -> None:
    assert task_names()[0] == Config.task == "classify"
    assert isinstance(task_named("classify"), Classify)
    with pytest.raises(ValueError, match=r"task=classfy: allowed are classify.*did you mean classify"):
        check_task("classfy")


def test_a_task_without_a_metric_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(base.TASKS, "nothing", "search.tasks.classify:Classify")
    with pytest.raises(ValueError, match="task=nothing: no metric of its validation images"):
        check_task("nothing")


def test_the_scores_of_a_pass_are_those_of_all_evaluators_that_are_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    top1 = metrics.metrics_of("classify")[0]
    best = replace(top1, name="best", splits=("val",), evaluator="their_scores:Best")
    theirs = types.ModuleType("their_scores")
    theirs.Best = Best  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_scores", theirs)
    monkeypatch.setattr(base, "metrics_of", lambda name: (top1, best))
    output, target = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 1])
    assert _scored("val", output, target) == {"val_top1": 50.0, "val_best": 3.0}
    assert _scored("test", output, target) == {"test_top1": 50.0}
    monkeypatch.setattr(base, "metrics_of", lambda name: (replace(top1, name="top5"),))
    with pytest.raises(ValueError, match="its evaluators compute top1, loss, and not top5, which is declared"):
        _scored("val", output, target)
