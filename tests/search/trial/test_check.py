from __future__ import annotations

from typing import Any

import pytest
import torch

from search.config import typed
from search.tasks import classify
from search.trial import untrained
from search.trial.check import check_network, check_trial, score, tell_emulation

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


@pytest.mark.parametrize(
    ("capability", "amp", "says"), [("AVX2", "true", True), ("AVX512", "true", False), ("AVX2", "false", False)]
)
def test_bfloat16_that_a_cpu_emulates_is_told_before_training(
    small: Small,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capability: str,
    amp: str,
    says: bool,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    config = small(f"train.amp={amp}", "device=cpu")
    for check, given in ((check_trial, config), (check_network, typed(config))):
        caplog.clear()
        tell_emulation.cache_clear()
        with caplog.at_level("WARNING", logger="xvol"):
            check(given)
        assert any("train.amp=false" in message for message in caplog.messages) == says


def test_configurations_of_a_study_share_their_data_and_never_see_test(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained._loaders.cache_clear()
    loads: list[bool] = []
    original = classify.load_data

    def counting(*args: Any, with_test: bool) -> Any:
        loads.append(with_test)
        return original(*args, with_test=with_test)

    monkeypatch.setattr(classify, "load_data", counting)
    for policy in ("none", "stage3", "all"):
        check_trial(small(f"placement.policy={policy}"))
    assert loads == [False]
    check_trial(small("data.train_size=128"))
    assert loads == [False, False]
    untrained._loaders.cache_clear()


def test_smaller_images_that_are_not_smaller_or_that_a_backbone_does_not_take_are_refused(small: Small) -> None:
    low = ("train.low_res_epochs=1", "train.low_res")
    check_trial(small(low[0], f"{low[1]}=0.75"))
    with pytest.raises(ValueError, match=r"train\.low_res=1.*below 1"):
        check_trial(small(low[0], f"{low[1]}=1"))
    fixed = ("backbone.name=vit_tiny_patch16_224", "backbone.kwargs.img_size=16", "backbone.kwargs.patch_size=4")
    check_trial(small(*fixed))
    with pytest.raises(ValueError, match=r"train\.low_res=0.75: .* takes no images of 12x12"):
        check_trial(small(*fixed, low[0], f"{low[1]}=0.75"))
