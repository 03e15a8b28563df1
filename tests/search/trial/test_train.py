from __future__ import annotations

import copy
import math
import time
from typing import Any

import pytest
import torch
from torch import nn

from search import slot
from search.config import typed
from search.trial.train import Diverged, Trainer, evaluate
from search.trial.untrained import prepare

from .conftest import Small


@pytest.fixture
def trainer(small: Small) -> Any:
    """Make a trainer on digits from overrides."""

    def make(*overrides: str) -> Trainer:
        return prepare(typed(small("data.train_size=192", *overrides))).trainer()

    return make


def curve(trainer: Trainer) -> list[tuple[float, ...]]:
    """All that is reported of the epochs but the time they took."""
    return [tuple({**epoch.row, "seconds": 0.0}.values()) for epoch in trainer.epochs()]


def test_one_seed_is_one_training(trainer: Any) -> None:
    overrides = ["train.epochs=2", "placement.policy=stage3", "branch.gamma=1", "data.crop_padding=1"]
    first = curve(trainer(*overrides))
    assert [row[0] for row in first] == [1, 2]
    torch.rand(7)  # whatever happened before
    assert curve(trainer(*overrides)) == first
    assert curve(trainer(*overrides, "seed=1")) != first


def test_a_network_learns(trainer: Any) -> None:
    epochs = list(trainer("train.epochs=6", "data.train_size=512", "train.ema_decay=null").epochs())
    assert epochs[-1].scores["val_top1"] > 60
    assert epochs[-1].train_loss < epochs[0].train_loss
    assert all(epoch.seconds > 0 for epoch in epochs)


def test_it_gives_way_after_each_step_and_batch_and_does_not_count_the_waiting(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Measured:
        """A turnstile behind which somebody measures for 20 ms at each look."""

        waited = 0.0

        def give_way(self) -> None:
            time.sleep(0.02)
            self.waited += 1000.0

    here = Measured()
    monkeypatch.setattr(slot, "_at_work", here)
    epochs = list(trainer("train.epochs=2").epochs())
    assert here.waited == 1000.0 * 2 * (192 // 64 + 2)  # steps of 64, and 100 validation images in batches of 64
    assert all(-5000 < epoch.seconds < -4900 for epoch in epochs)  # the clock goes back by what was waited


@pytest.mark.parametrize("schedule", ["onecycle", "constant"])
def test_a_loss_without_bounds_ends_the_training(trainer: Any, schedule: str) -> None:
    with pytest.raises(Diverged, match=r"diverged: .*(not finite|train\.lr=1e\+09)"):
        list(trainer("train.lr=1e9", "train.epochs=10", f"train.schedule={schedule}").epochs())


def test_a_loss_that_is_no_number_names_its_epoch_and_rate(trainer: Any) -> None:
    made = trainer()
    with torch.no_grad():
        made.model.fc.bias[0] = math.nan
    with pytest.raises(Diverged, match=r"training loss nan in epoch 1, step 3, at train\.lr=0\.1"):
        list(made.epochs())


def test_the_average_of_the_weights_is_what_is_evaluated(trainer: Any) -> None:
    overrides = ("data.train_size=64", "train.ema_decay=0.75", "train.schedule=constant", "train.lr=0.5")
    made = trainer(*overrides, "train.ema_warmup=false")
    before = copy.deepcopy(made.model.state_dict())
    (epoch,) = made.epochs()  # one step
    after, average = made.model.state_dict(), made.evaluated.state_dict()
    assert made.evaluated is not made.model
    weights = dict(made.model.named_parameters())
    for name, value in average.items():
        if name not in weights:
            assert torch.equal(value, after[name]), name  # statistics of batch norms are not averaged twice
        elif value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * after[name], rtol=1e-4, atol=1e-5)
    assert not torch.equal(average["conv1.weight"], after["conv1.weight"])
    assert evaluate(made.evaluated, made._val, made._scores()) == epoch.scores
    assert evaluate(made.model, made._val, made._scores())["val_loss"] != epoch.scores["val_loss"]


def test_the_average_warms_up_over_all_epochs(trainer: Any) -> None:
    made = trainer("data.train_size=64", "train.epochs=2", "train.ema_decay=0.99", "train.schedule=constant")
    seen = [made.model.fc.weight.detach().clone() for _ in made.epochs()]  # one update each
    expected = (1 - 2 ** (-2 / 3)) * seen[0] + 2 ** (-2 / 3) * seen[1]
    torch.testing.assert_close(made.evaluated.fc.weight.detach(), expected)


@pytest.mark.parametrize("decay", ["null", "0"])
def test_without_an_average_the_network_itself_is_evaluated(trainer: Any, decay: str) -> None:
    made = trainer(f"train.ema_decay={decay}")
    assert made.evaluated is made.model


@pytest.mark.parametrize(
    "override",
    ["train.label_smoothing=0.1", "train.clip_grad=0.1", "train.amp=true", "train.opt=adamw", "train.schedule=cosine"],
)
def test_each_part_of_a_recipe_changes_the_training(trainer: Any, override: str) -> None:
    base = curve(trainer("data.train_size=128", "train.ema_decay=null"))
    other = curve(trainer("data.train_size=128", "train.ema_decay=null", override))
    assert other != base
    assert all(math.isfinite(value) for row in other for value in row)


def test_a_score_counts_each_image_once(trainer: Any, small: Small) -> None:
    model = trainer().model
    scores = []
    for size in (7, 100, 512):
        made = prepare(typed(small(f"data.eval_batch_size={size}")))
        scores.append(evaluate(model, made.loaders.val, made.evaluator("val")))
    assert len({score["val_top1"] for score in scores}) == 1
    assert [score["val_loss"] for score in scores] == pytest.approx([scores[0]["val_loss"]] * 3, rel=1e-5)
    assert 0 <= scores[0]["val_top1"] <= 100


def test_an_evaluation_leaves_the_network_as_it_was(trainer: Any) -> None:
    made = trainer()
    before = copy.deepcopy(made.model.state_dict())
    evaluate(made.model, made._val, made._scores())
    assert made.model.training
    assert all(torch.equal(value, made.model.state_dict()[name]) for name, value in before.items())


def test_a_logit_that_is_not_finite_has_no_score(trainer: Any) -> None:
    made = trainer()
    with torch.no_grad():
        made.model.fc = nn.Linear(made.model.fc.in_features, 10)
        made.model.fc.bias[3] = math.inf
    with pytest.raises(Diverged, match="not finite"):
        evaluate(made.model, made._val, made._scores())
