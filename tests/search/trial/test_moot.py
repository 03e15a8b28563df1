from __future__ import annotations

import pytest

from search.config import Config
from search.recipe import TrainConfig
from search.space.architecture import BranchConfig, PlacementConfig
from search.trial.moot import refuse_moot

PLAIN, PLACED = Config(), Config(placement=PlacementConfig("stage3"))
OTHER = Config(placement=PlacementConfig(at={"stage4": "conv+acmix"}), branch=BranchConfig("conv"))
CONSTANT = Config(train=TrainConfig(schedule="constant", ema_decay=None))


@pytest.mark.parametrize(
    ("key", "configs", "message"),
    [
        ("branch.use", [PLAIN], "no block is placed"),
        ("branch", [PLAIN], "no block is placed"),
        ("branch.options.pssa.rank", [PLAIN], "no block is placed"),
        ("branch.options.acmix.kernel_att", [PLAIN, PLACED], "branch.use has no acmix, but conv, pssa"),
        ("branch.options.pssa.rank", [OTHER], "branch.use has no pssa, but acmix, conv"),
        ("train.warmup", [CONSTANT], "constant"),
        ("train.ema_warmup", [CONSTANT], "no average"),
        ("tracker.project", [PLACED], "nothing that is trained"),
        ("experiment", [PLACED], "of the study"),
    ],
)
def test_a_key_without_effect_is_refused(key: str, configs: list[Config], message: str) -> None:
    with pytest.raises(ValueError, match=f"{key} has no effect: .*{message}"):
        refuse_moot([key], configs, swept=True)


def test_a_key_with_an_effect_anywhere_is_left_alone() -> None:
    keys = ["branch.use", "branch.options.pssa.rank", "train.warmup", "train.lr", "placement.policy", "seed"]
    refuse_moot(keys, [PLAIN, PLACED, CONSTANT], swept=True)
    refuse_moot(["branch.options.acmix.kernel_att"], [PLAIN, OTHER], swept=True)
    refuse_moot(["tracker.project", "experiment", "checkpoint"], [PLAIN], swept=False)
