"""What `python -m search -m` and xvol-plan refuse before Optuna is loaded, by composing as they do."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from search.app import application
from search.space.parameters import Space
from search.study.asked import read_command
from search.study.options import SweeperOptions


@pytest.fixture
def asked(composed: Any) -> Any:
    def read(*lines: str) -> tuple[SweeperOptions, Space]:
        swept = [line for line in lines if "," in line.partition("=")[2] and "[" not in line and "{" not in line]
        config = composed(*(line for line in lines if line not in swept), with_hydra=True)
        own = [line for line in lines if not line.startswith(("hydra", "~hydra"))]
        return read_command(config, own, config.hydra.sweeper, GlobalHydra.instance().config_loader(), application)

    return read


SWEEP = "placement=none,stage3"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["train.epochs=2"], "there is nothing to search"),
        ([SWEEP, "hydra.sweeper.warm_start.score=synflo"], "warm_start.score=synflo: .*did you mean synflow"),
        ([SWEEP, "hydra.sweeper.final.seed_key=sed"], "seed_key=sed: .*did you mean seed"),
        ([SWEEP, "hydra.sweeper.final.seed_key=train.lr"], "seed_key=train.lr: .*a whole number"),
        ([SWEEP, "+hydra.sweeper.old_values={train.lr: 0.1}"], "train.lr is no parameter of this study; .*placement"),
        ([SWEEP, "hydra.launcher.device=cuda"], "hydra.launcher.device=cuda"),
        ([SWEEP, "hydra.sweep.dir=/dev/null"], "hydra.sweep.dir.*/dev/null is a file"),
        ([SWEEP, "sampler=cmaes"], "sampler=cmaes is for numbers"),
        ([SWEEP, "hydra.sweeper.constraints={param: 3}"], "did you mean params"),
        (["train.lr=0.1,-1"], "train.lr=-1.0: must be above 0"),
        (["design=factorial", SWEEP, "train.lr=0.1,-1"], "train.lr=-1.0: must be above 0"),
        (["design=factorial", SWEEP, "hydra.sweeper.n_trials=3"], "n_trials=3 has no effect"),
        (["design=factorial", SWEEP, "seed=7,8"], "seed is varied, and a design trains"),
        (["experiment=paper/branch_ablation", "hydra.sweeper.final.seeds=9"], "final.seeds=9 has no effect"),
        (["experiment=digits_demo", "placement=stage3"], "placement=stage3 has no effect: placement.policy is varied"),
        ([SWEEP, "branch.options.acmix.kernel_att=3,5"], "branch.use has no acmix"),
        (["placement=none", "branch.use=conv+pssa,pssa"], "no block is placed"),
    ],
)
def test_a_mistake_is_told_at_once(asked: Any, lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(*lines)


@pytest.mark.parametrize(
    "lines",
    [
        ["experiment=digits_demo"],
        ["experiment=digits_demo", "branch=pssa"],
        ["experiment=fashion_mnist_branches", "train=long"],
        ["experiment=paper/stage_placement", "hydra.sweeper.design.seeds=3"],
        [SWEEP, "branch.options.pssa.rank=1,2"],  # at the first placement, none, it has no effect
        [SWEEP, "branch=conv,xvolution", "branch.options.pssa.rank=1,2"],
        ["placement=stage3", "branch.use=conv,conv+acmix", "branch.options.acmix.kernel_att=3,5"],
        [SWEEP, "train.lr=0.1,0.2", "+hydra.sweeper.old_values={train.lr: 0.1}"],
    ],
)
def test_what_is_right_passes(asked: Any, lines: list[str]) -> None:
    options, space = asked(*lines)
    assert space.parameters or options.design.kind
