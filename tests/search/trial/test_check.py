from __future__ import annotations

from typing import Any

import pytest

from search.config import typed
from search.data import load
from search.trial import check as module
from search.trial.check import check_trial, check_values, score

from .conftest import Small


def test_facts_of_a_trial_that_can_run(small: Small) -> None:
    facts = check_trial(small("placement.policy=stage3", "objectives=[val_top1,params]"))
    assert facts["arm"] == "stage3: conv+pssa"
    assert len(facts["arch_hash"]) == 10
    assert facts["objectives"] == 2
    assert facts["senses"] == {"val_top1": "maximize", "params": "minimize"}


def test_scores_of_an_untrained_network(small: Small) -> None:
    found = score(small("placement.policy=stage3"), ["snip", "naswot"])
    assert list(found) == ["snip", "naswot"]
    assert found == score(small("placement.policy=stage3"), ["snip", "naswot"])
    assert found != score(small(), ["snip", "naswot"])
    closed = score(small("placement.policy=stage3", "branch.gamma=0"), ["snip", "naswot"])
    assert closed == score(small(), ["snip", "naswot"])  # a block that starts as the plain convolution scores as one
    with pytest.raises(ValueError, match="unknown score 'snap'"):
        score(small(), ["snap"])
    with pytest.raises(ValueError, match=r"train\.epochs=0"):
        score(small("train.epochs=0"), ["snip"])


WRONG = [
    ("train.epochs=0", r"train\.epochs=0: at least 1"),
    ("train.schedule=step", "onecycle, cosine, constant"),
    ("tracker.mode=on", "offline, online, disabled"),
    ("objectives=[test_top1]", "test data"),
    ("branch.gamma=ato", r"branch\.gamma=ato: allowed are auto and a finite number"),
    ("branch.gamma=nan", r"branch\.gamma=nan: allowed are auto and a finite number"),
    ("threads=0", "threads=0: at least 1"),
    ("checkpoint=best", "checkpoint=best: allowed are never, final, always"),
    ("data.name=digit", "did you mean digits"),
    ("data.crop_padding=16", "crop_padding"),
    ("measure.latency_batch=0", r"measure\.latency_batch=0"),
    ("measure.latency_repeats=-1", r"measure\.latency_repeats=-1"),
    ("measure.fuse_tolerance=-1", r"measure\.fuse_tolerance=-1"),
]


@pytest.mark.parametrize(("override", "message"), WRONG)
def test_a_value_out_of_its_range_is_told_without_data_or_network(
    small: Small, override: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "load_data", lambda *_, **__: pytest.fail("data were loaded"))
    with pytest.raises(ValueError, match=message):
        check_values(typed(small(override)))
    with pytest.raises(ValueError, match=message):
        check_trial(small(override))


def test_an_objective_that_is_not_measured_is_told_before_training(small: Small) -> None:
    with pytest.raises(ValueError, match="latency_repeats"):
        check_values(typed(small("objectives=[latency_ms]", "measure.latency_repeats=0")))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batch_size=300", r"data\.batch_size=300.*256"),
        ("data.train_size=100000", r"data\.train_size=100000"),
        ("data.val_size=1797", r"data\.val_size=1797"),
        ("backbone.name=resnet5", "resnet50"),
        ("placement.policy=stage9", "stage9"),
        ("branch.use=psa", "pssa"),
        ("train.opt=sdg", r"train\.opt=sdg.*sgd"),
        ("device=xpu", "device=xpu: not usable here"),
        ("device=nowhere", "device=nowhere: allowed are auto, cpu, cuda"),
    ],
)
def test_what_data_and_network_cannot_do_is_told_before_training(small: Small, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_trial(small(override))


def test_a_folder_of_ones_own_images_must_be_named(composed: Any) -> None:
    with pytest.raises(ValueError, match=r"data\.path"):
        check_values(typed(composed("data=image_folder")))


def test_configurations_of_a_study_share_their_data_and_never_see_test(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    module._loaded.cache_clear()
    loads: list[bool] = []
    original = load.load_data

    def counting(config: Any, *, with_test: bool) -> Any:
        loads.append(with_test)
        return original(config, with_test=with_test)

    monkeypatch.setattr(load, "load_data", counting)
    for policy in ("none", "stage3", "all"):
        check_trial(small(f"placement.policy={policy}"))
    assert loads == [False]
    check_trial(small("data.train_size=128"))
    assert loads == [False, False]
    module._loaded.cache_clear()
