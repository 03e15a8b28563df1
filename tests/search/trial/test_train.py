from __future__ import annotations

import copy
import math
import random
import time
from typing import Any

import numpy as np
import pytest
import torch
from timm.task import ClassificationTask
from torch import nn

from search import slot
from search.config import typed
from search.recipe import TrainConfig
from search.trial.check import check_network, check_trial
from search.trial.train import Diverged, Trainer, evaluate, unformed
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
    [
        *(
            "train.label_smoothing=0.1",
            "train.clip_grad=0.1",
            "train.amp=true",
            "train.opt=adamw",
            "train.schedule=cosine",
        ),
        *("train.loss=bce", "train.mixup=0.2", "train.cutmix=1", "train.reprob=0.5", "train.accumulate=2"),
        *("train.opt_kwargs.nesterov=false", "train.layer_decay=0.8", "train.warmup=0.9"),
        "backbone.kwargs.drop_path_rate=0.3",
    ],
)
def test_each_part_of_a_recipe_changes_the_training(trainer: Any, override: str) -> None:
    base = curve(trainer("data.train_size=128", "train.ema_decay=null"))
    other = curve(trainer("data.train_size=128", "train.ema_decay=null", override))
    assert other != base
    assert all(math.isfinite(value) for row in other for value in row)


def test_gammas_are_raised_in_equal_steps_and_nothing_else_is(trainer: Any) -> None:
    """By all of it over the first half of an epoch, on top of what is learned: at a rate of 0 that is nothing."""
    still = ["placement.policy=stage3", "branch.gamma=0", "train.lr=1e-30", "train.weight_decay=0", "train.epochs=1"]
    still += ["train.ema_decay=null", "data.train_size=128", "data.batch_size=16"]
    plain, raised = trainer(*still), trainer(*still, "train.gamma_to=0.3", "train.gamma_epochs=0.5")
    taken: list[float] = []
    block = raised.model.layer3[0].conv2
    raised._optimizer.register_step_pre_hook(lambda *_: taken.append(block.norms["pssa"].weight[0].item()))
    for each in (plain, raised):
        list(each.epochs())
    assert taken == pytest.approx([0, 0.075, 0.15, 0.225, 0.3, 0.3, 0.3, 0.3])
    theirs = plain.model.state_dict()
    for name, value in raised.model.state_dict().items():
        if name.endswith("norms.pssa.weight"):
            torch.testing.assert_close(value, torch.full_like(value, 0.3))
        elif name in dict(plain.model.named_parameters()):
            torch.testing.assert_close(value, theirs[name])


@pytest.mark.parametrize("mode", ["value", "agc"])
def test_gradients_are_clipped_by_value_or_by_weight(trainer: Any, mode: str) -> None:
    clip = ("train.clip_grad=0.01", "train.ema_decay=null", "data.train_size=128")
    assert curve(trainer(*clip, f"train.clip_mode={mode}")) != curve(trainer(*clip))


def test_parts_of_a_batch_are_what_ranks_would_have(trainer: Any) -> None:
    """Gradients of two interleaved halves, each with its own batch norm statistics, averaged by hand."""
    made = trainer(
        "data.train_size=64", "train.accumulate=2", "train.ema_decay=null", "train.opt_kwargs.nesterov=false"
    )
    alone = copy.deepcopy(made.model)
    inputs, targets = next(iter(made._train.at(1)))
    halves = [nn.functional.cross_entropy(alone(inputs[part::2]), targets[part::2]) for part in (0, 1)]
    (sum(halves) / 2).backward()
    rate, decay = made._optimizer.param_groups[0]["lr"], 5e-4
    (epoch,) = made.epochs()
    assert epoch.train_loss == pytest.approx(sum(half.item() for half in halves) / 2)
    for name, weight in alone.named_parameters():
        moved = weight - rate * (weight.grad + (decay * weight if weight.ndim > 1 else 0))
        torch.testing.assert_close(made.model.get_parameter(name).detach(), moved.detach(), msg=name)


def test_what_a_step_draws_hangs_on_its_place_alone(trainer: Any) -> None:
    overrides = ("backbone.kwargs.drop_rate=0.3", "train.mixup=0.2", "train.reprob=0.3")
    first = curve(trainer(*overrides))
    made = trainer(*overrides)
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert curve(made) == first
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert torch.equal(after[0], states[0])
    assert after[1:] == states[1:]
    assert curve(trainer(*overrides, "seed=1")) != first


def test_arms_are_mixed_and_erased_alike_whatever_their_networks_draw(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(*overrides: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        batches = []

        def forward(self: ClassificationTask, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
            batches.append((input.clone(), target.clone()))
            return original(self, input, target)

        monkeypatch.setattr(ClassificationTask, "forward", forward)
        recipe = ("train.mixup=0.2", "train.cutmix=1", "train.reprob=0.5", "train.epochs=2", "train.accumulate=2")
        list(trainer(*recipe, *overrides).epochs())
        return batches

    original = ClassificationTask.forward
    plain, drawing = seen(), seen("placement.policy=all", "backbone.kwargs.drop_rate=0.5")
    assert len(plain) == len(drawing) == 2 * 3 * 2
    assert all(
        torch.equal(a, b) for one, other in zip(plain, drawing, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert not torch.equal(plain[0][0], plain[1][0])


def test_mixing_ends_with_its_last_epoch(trainer: Any) -> None:
    recipe = ("train.mixup=1", "train.epochs=3", "train.mixup_off_epoch=2")
    made, shares = trainer(*recipe), []
    made._training.criterion = lambda output, target: shares.append(target.max(1)[0].min()) or output.float().sum() * 0
    list(made.epochs())
    assert [share < 1 for share in shares] == [True] * 6 + [False] * 3


@pytest.mark.parametrize("every", [2, 5])
def test_epochs_between_are_not_evaluated(trainer: Any, every: int) -> None:
    overrides = ("train.epochs=3", "data.train_size=64")
    epochs = list(trainer(*overrides, f"train.eval_every={every}").epochs())
    assert [bool(epoch.scores) for epoch in epochs] == [False, every == 2, True]
    whole = list(trainer(*overrides).epochs())
    assert epochs[-1].scores == whole[-1].scores
    assert [epoch.train_loss for epoch in epochs] == [epoch.train_loss for epoch in whole]


@pytest.mark.parametrize("form", ["channels_last", "grad_checkpointing"])
def test_a_form_changes_no_gradient_by_more_than_rounding(trainer: Any, form: str) -> None:
    overrides = ("data.train_size=64", "train.ema_decay=null", "placement.policy=stage3", "branch.gamma=1")
    plain, formed = trainer(*overrides), trainer(*overrides, f"train.{form}=true")
    (before,), (after,) = plain.epochs(), formed.epochs()
    assert after.train_loss == pytest.approx(before.train_loss, rel=1e-5)
    for name, weight in plain.model.named_parameters():
        torch.testing.assert_close(formed.model.get_parameter(name), weight, rtol=1e-3, atol=1e-4, msg=name)
    convolution = formed.model.layer4[0].conv2.weight
    assert convolution.is_contiguous(memory_format=torch.channels_last) == (form == "channels_last")
    back = unformed(formed.model, formed.config, plain.model)
    assert back.layer4[0].conv2.weight.is_contiguous()
    assert not back.grad_checkpointing


def test_norms_that_saw_all_ranks_are_plain_ones_again_behind_the_training(trainer: Any) -> None:
    built = trainer("placement.policy=stage3").model
    trained = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(built))
    trained.bn1.running_mean.fill_(0.5)
    back = unformed(trained, TrainConfig(sync_bn=True, accumulate=2), built)
    assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in back.modules())
    assert [type(layer) for layer in back.modules()] == [type(layer) for layer in built.modules()]
    assert back.bn1.running_mean.unique().tolist() == [0.5]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.amp=float16", "device=cpu"], r"train\.amp=float16 is for CUDA, and the device is cpu: .*bfloat16"),
        (
            ["train.sync_bn=true", "train.accumulate=2"],
            r"train\.sync_bn=true is for a trial on several GPUs, .*device is cpu",
        ),
        (
            ["train.grad_checkpointing=true", "backbone.name=dla46_c"],
            "timm's DLA has no activation checkpointing",
        ),
    ],
)
def test_a_form_that_cannot_be_had_is_refused_before_a_training(
    small: Small, overrides: list[str], message: str
) -> None:
    config = small(*overrides)
    for check in (check_trial, lambda composed: check_network(typed(composed)), lambda c: prepare(typed(c)).trainer()):
        with pytest.raises(ValueError, match=message):
            check(config)


@pytest.mark.slow
def test_the_training_step_is_compiled_and_nothing_else(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's own front end without its compiler, which takes minutes."""
    compiled = []

    def compile(model: nn.Module, **_: Any) -> Any:
        compiled.append(model)
        return original(model, backend="eager")

    original = torch.compile
    overrides = ("data.train_size=64", "train.ema_decay=0.5")
    plain = list(trainer(*overrides).epochs())
    monkeypatch.setattr(torch, "compile", compile)
    made = trainer(*overrides, "train.compile=true")
    (epoch,) = made.epochs()
    assert compiled == [made.model]
    assert epoch.train_loss == pytest.approx(plain[0].train_loss, rel=1e-5)
    assert made.state_dict()["model"].keys() == made.state_dict()["ema"].keys()
    assert not any("_orig_mod" in name for name in made.state_dict()["model"])


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
