from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn

from search.recipe import TrainConfig
from search.tasks.classify import Classify
from search.trial.check import check_trial
from search.trial.optim import MOST_INITIAL, Average, check_average, initial_share, make_optimizer, make_scheduler

from .conftest import Small


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))


def rates(config: TrainConfig, steps: int) -> list[float]:
    """The learning rate of each step."""
    optimizer = make_optimizer(network(), config)
    scheduler = make_scheduler(optimizer, config, steps)
    found = []
    for step in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step_update(step + 1)
    return found


def test_biases_and_norms_are_not_decayed() -> None:
    optimizer = make_optimizer(network(), TrainConfig(weight_decay=0.01))
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {p.ndim > 1: value for p, value in decay.items()} == {True: 0.01, False: 0.0}
    assert len(decay) == 6


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_momentum_reaches_the_optimiser(name: str) -> None:
    (group, *_) = make_optimizer(network(), TrainConfig(opt=name, momentum=0.5, lr=0.1)).param_groups
    assert (group["momentum"] if name == "sgd" else group["betas"][0]) == 0.5


@pytest.mark.parametrize("name", ["sgd", "sgdw", "nlars", "momentum", "adamw"])
def test_no_momentum_is_a_momentum(name: str) -> None:
    (group, *_) = make_optimizer(network(), TrainConfig(opt=name, momentum=0.0)).param_groups
    assert (group["betas"][0] if name == "adamw" else group["momentum"]) == 0
    assert not (name == "sgd" and group["nesterov"])


def test_further_arguments_reach_the_optimiser() -> None:
    kwargs = {"betas": [0.8, 0.95], "eps": 1e-6, "filter_bias_and_bn": False}
    (group,) = make_optimizer(network(), TrainConfig(opt="adamw", opt_kwargs=kwargs, weight_decay=0.1)).param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.95), 1e-6, 0.1)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("sgd", {"eps": 1e-6}, r"opt_kwargs\.eps: train\.opt=sgd takes no eps; it takes .*nesterov"),
        ("sgd", {"nesterof": True}, "takes no nesterof; .*did you mean nesterov"),
        ("adamw", {"lr": 0.1}, r"opt_kwargs\.lr: write train\.lr, which is a key of its own"),
        ("adamw", {"betas": "high"}, r"train\.opt=adamw does not take .*betas=high"),
        ("lamb", {"params": []}, "takes no params"),
    ],
)
def test_an_argument_that_the_optimiser_does_not_take_is_refused(
    small: Small, name: str, kwargs: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_optimizer(network(), TrainConfig(opt=name, opt_kwargs=kwargs))
    config = small(f"train.opt={name}")
    config.train.opt_kwargs = kwargs
    with pytest.raises(ValueError, match=message):
        check_trial(config)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "multistep", "constant"])
def test_the_rate_decays_from_layer_to_layer(schedule: str) -> None:
    model = timm.create_model("xvol_proxy_resnet", num_classes=10)
    ends = [2.0] if schedule == "multistep" else []
    config = TrainConfig(layer_decay=0.5, schedule=schedule, decay_epochs=ends, warmup=0.0, lr=0.4)
    optimizer = make_optimizer(model, config)
    make_scheduler(optimizer, config, 100)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rate[id(model.fc.weight)] == pytest.approx(0.4, rel=1e-3)
    (block,) = model.layer4
    assert rate[id(block.conv1.weight)] == pytest.approx(0.2, rel=1e-3)
    assert rate[id(model.conv1.weight)] < rate[id(block.conv1.weight)]


@pytest.mark.parametrize(
    ("name", "message"),
    [("adahessian", "second derivatives"), ("fusedsgd", "of the package apex, which is not installed")],
)
def test_an_optimiser_that_cannot_run_here_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"train\.opt={name} .*{message}"):
        make_optimizer(network(), TrainConfig(opt=name))


def test_an_unknown_optimiser_is_answered_with_near_ones() -> None:
    with pytest.raises(ValueError, match=r"train\.opt=adamv: .*near it: .*adamw"):
        make_optimizer(network(), TrainConfig(opt="adamv"))
    with pytest.raises(ValueError, match=r"train\.opt=zzzzzzzz: .*sgd"):
        make_optimizer(network(), TrainConfig(opt="zzzzzzzz"))


def test_one_cycle_climbs_and_falls_to_nothing() -> None:
    lr = rates(TrainConfig(lr=0.3, schedule="onecycle", warmup=0.3), 100)
    peak = lr.index(max(lr))
    assert lr[0] == pytest.approx(0.3 / 25)
    assert max(lr) == pytest.approx(0.3, rel=1e-3)
    assert 28 <= peak <= 30
    assert lr == [*sorted(lr[:peak]), *sorted(lr[peak:], reverse=True)]
    assert lr[-1] < 1e-5


def test_cosine_has_a_linear_warm_up() -> None:
    lr = rates(TrainConfig(lr=1.0, schedule="cosine", warmup=0.1), 100)
    assert lr[:11] == pytest.approx([(i + 1) / 11 for i in range(11)])
    assert lr[10:] == sorted(lr[10:], reverse=True)
    assert 0 < lr[-1] < 1e-3


def test_multistep_falls_where_it_is_told_to_and_has_a_linear_warm_up() -> None:
    ends = [1.5, 3.0]
    lr = rates(
        TrainConfig(epochs=4, lr=1.0, schedule="multistep", decay_epochs=ends, warmup_epochs=0.5, warmup_lr=0.1), 40
    )
    assert lr[:6] == pytest.approx([0.1 + 0.9 * step / 5 for step in range(6)])
    assert lr[6:15] == [1.0] * 9
    assert lr[15:30] == pytest.approx([0.1] * 15)
    assert lr[30:] == pytest.approx([0.01] * 10)


def test_a_warm_up_by_epochs_is_timms() -> None:
    config = TrainConfig(
        epochs=10, lr=1.0, schedule="cosine", warmup_epochs=2, warmup_lr=0.1, warmup_prefix=False, min_lr=0.01
    )
    optimizer = make_optimizer(network(), config)
    scheduler, _ = create_scheduler_v2(
        optimizer, "cosine", 10, warmup_epochs=2, warmup_lr=0.1, min_lr=0.01, step_on_epochs=False, updates_per_epoch=5
    )
    expected = []
    for step in range(50):
        expected.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step_update(step + 1)
    assert rates(config, 50) == expected
    assert expected[0] == 0.1
    behind = rates(replace(config, warmup_prefix=True), 50)
    assert behind[:10] == expected[:10]
    assert behind[10] == 1.0 > expected[10]


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_without_warm_up_the_first_step_has_the_whole_rate(schedule: str) -> None:
    lr = rates(TrainConfig(lr=0.3, schedule=schedule, warmup=0.0), 50)
    assert lr[0] == pytest.approx(0.3, rel=1e-2)
    assert lr == sorted(lr, reverse=True)


def test_constant_stays() -> None:
    assert rates(TrainConfig(lr=0.3, schedule="constant"), 5) == [0.3] * 5


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "multistep", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_learn_something(schedule: str, steps: int) -> None:
    lr = rates(TrainConfig(lr=0.3, schedule=schedule), steps)
    assert all(0 < rate <= 0.3 + 1e-9 for rate in lr[: max(1, steps - 1)])


def test_the_schedule_changes_no_numbers_of_the_model() -> None:
    torch.manual_seed(0)
    model = network()
    before = [p.clone() for p in model.parameters()]
    make_scheduler(make_optimizer(model, TrainConfig()), TrainConfig(), 10)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def simulated_share(config: TrainConfig, updates: int) -> float:
    """Average a weight that is 1 at the start and 0 ever after: what is left is the share of the start."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(model.weight)
    training = Classify().training(model, config)
    training.setup_ema(config.ema_decay or 0.0, use_warmup=config.ema_warmup, exclude_buffers=True)
    nn.init.zeros_(model.weight)
    for number in range(1, updates + 1):
        training.update_ema(step=number if config.ema_warmup else None)
    return float(training.get_eval_model(ema=True).module.weight.detach())


@given(st.floats(0.01, 0.9999), st.booleans(), st.integers(1, 60))
def test_the_share_of_the_initial_weights_is_that_of_timms_average(decay: float, warmup: bool, updates: int) -> None:
    config = TrainConfig(ema_decay=decay, ema_warmup=warmup)
    assert initial_share(decay, warmup, updates) == pytest.approx(simulated_share(config, updates), abs=1e-9)


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_timms_to_the_last_bit(warmup: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(5, 5))
    timms, ours = (ModelEmaV3(model, decay=0.9, use_warmup=warmup, exclude_buffers=True) for _ in range(2))
    average = Average(ours, model)
    for number in range(1, 8):
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.rand_like(value))
        model[:2](torch.rand(2, 3, 5, 5))  # the running statistics move
        timms.update(model, step=number if warmup else None)
        average.update(number if warmup else None)
        assert all(map(torch.equal, ours.module.state_dict().values(), timms.module.state_dict().values()))


def test_sgd_over_all_tensors_at_once_is_sgd_to_the_last_bit() -> None:
    recipe = TrainConfig(opt="sgd", lr=0.01, momentum=0.9, weight_decay=0.1)
    ends = []
    for own in ({}, {"foreach": False}):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(7, 9), nn.BatchNorm1d(9), nn.Linear(9, 3))
        optimizer = make_optimizer(model, replace(recipe, opt_kwargs=own))
        assert optimizer.defaults["foreach"] is own.get("foreach", True)
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.rand(6, 7)).square().mean().backward()
            optimizer.step()
        ends.append(model.state_dict())
    assert all(map(torch.equal, ends[0].values(), ends[1].values()))


def test_ten_updates_at_98_percent_are_untrained_without_warm_up_and_trained_with_it() -> None:
    assert initial_share(0.98, False, 10) == pytest.approx(0.817, abs=1e-3)
    check_average(TrainConfig(ema_decay=0.98), 10)
    with pytest.raises(ValueError, match=r"10 updates .* 82% .*train\.ema_warmup=true, train\.ema_decay=0\.74"):
        check_average(TrainConfig(ema_decay=0.98, ema_warmup=False), 10)


@given(st.integers(1, 3000))
def test_the_decay_that_is_advised_is_accepted(updates: int) -> None:
    config = TrainConfig(ema_decay=0.9999, ema_warmup=False)
    if initial_share(0.9999, False, updates) <= MOST_INITIAL:
        return
    with pytest.raises(ValueError, match="or lower") as refused:
        check_average(config, updates)
    advised = float(str(refused.value).split("train.ema_decay=")[2].split()[0])
    check_average(TrainConfig(ema_decay=advised, ema_warmup=False), updates)


def test_no_average_is_never_refused() -> None:
    for decay in (None, 0.0):
        check_average(TrainConfig(ema_decay=decay, ema_warmup=False), 1)


def test_a_study_refuses_the_average_before_it_trains(small: Small) -> None:
    overrides = ("train.ema_decay=0.98", "train.ema_warmup=false")
    with pytest.raises(ValueError, match="after the 4 updates"):
        check_trial(small(*overrides))
    check_trial(small("train.ema_decay=0.98"))


def test_muon_takes_the_recipes_momentum_and_its_fallback_a_share_of_the_rate() -> None:
    model = timm.create_model("xvol_proxy_resnet", channels=(16, 16, 16, 16))
    kwargs = {"fallback_lr_scale": 0.1, "fallback_list": ["fc.*"], "nesterov": True}
    optimizer = make_optimizer(model, TrainConfig(opt="muon", momentum=0.8, lr=0.05, opt_kwargs=kwargs))
    assert {(group["momentum"], group["betas"][0], group["lr"]) for group in optimizer.param_groups} == {
        (0.8, 0.8, 0.05)
    }
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kinds = {name: set(optimizer.state[parameter]) for name, parameter in model.named_parameters()}
    assert "momentum_buffer" in kinds["layer1.0.conv1.weight"]
    assert all("exp_avg" in kinds[name] for name in ("fc.weight", "fc.bias", "bn1.weight"))


@pytest.mark.parametrize("shape", [(8, 16), (16, 8), (8, 4, 3, 3)])
def test_muon_in_float32_is_muon_whose_newton_schulz_steps_are(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = nn.Module()
    model.weight = nn.Parameter(torch.randn(shape))
    model.bias = nn.Parameter(torch.randn(8))
    twin, before = copy.deepcopy(model), model.weight.detach().clone()
    kwargs = {"nesterov": True, "ns_steps": 3, "ns_coefficients": [3.4445, -4.775, 2.0315], "adjust_lr_fn": "original"}
    config = TrainConfig(opt="muon_float32", lr=0.1, momentum=0.9, weight_decay=0.01, opt_kwargs=kwargs)
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        parameter.grad = torch.randn_like(parameter)
        other.grad = parameter.grad.clone()
    make_optimizer(model, config).step()
    make_optimizer(twin, replace(config, opt="muon")).step()
    update = model.weight.grad * 0.1
    update = zeropower_via_newtonschulz(
        model.weight.grad.lerp(update, 0.9).flatten(1), 3, [(3.4445, -4.775, 2.0315)], dtype=torch.float32
    )
    rate = 0.1 * get_lr_scale(update.shape, "original")
    torch.testing.assert_close(model.weight, before * (1 - 0.1 * 0.01) - rate * update.view(shape), rtol=0, atol=1e-6)
    assert torch.equal(model.bias, twin.bias)
    assert 0 < (model.weight - twin.weight).abs().max() < 0.01
