"""Names that are refused without torch are the ones the network would be refused for."""

import subprocess
import sys
from typing import Any

import pytest
import timm
import torch

import xvol
from search.config import BackboneConfig, BranchConfig, Config, PlacementConfig, typed
from search.recipe import MeasureConfig, TrainConfig
from search.tasks import classify
from search.trial import refuse
from search.trial.check import check_trial
from search.trial.refuse import STAGES, check_judge, check_names, check_values, refuse_moot
from xvol import branches
from xvol.stages import find_stages

from .conftest import Small


def checked(policy: str = "none", use: str = "conv+pssa", backbone: str = "resnet18", **more: object) -> None:
    check_names(
        BackboneConfig(name=backbone),
        PlacementConfig(policy=policy, at=more.get("at", {})),  # type: ignore[arg-type]
        BranchConfig(use=use, options=more.get("options", {})),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("backbone", STAGES)
def test_the_stages_are_those_of_the_backbone(backbone: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(backbone)
    assert len(find_stages(model)) == STAGES[backbone]


@pytest.mark.parametrize(
    "policy", ["none", "all", "stage1", "stage[1-4].last", "stage2.0+stage4", "every=2", "layer3.0.conv2", "stage[2,3]"]
)
def test_policies_that_may_be_right_pass(policy: str) -> None:
    checked(policy)
    checked(at={policy: "none"})


@pytest.mark.parametrize(
    ("policy", "wrong"), [("stage9", 9), ("stage1+stage5.last", 5), ("stage[3-6]", 6), ("stage0", 0)]
)
def test_a_stage_that_is_not_there_is_refused_as_the_network_refuses_it(policy: str, wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"placement.policy=.*has no stage{wrong}; it has stage1 to stage4"):
        checked(policy)
    with pytest.raises(ValueError, match=r"placement.at=.*selects nothing"):
        checked(at={policy: "conv"})
    with pytest.raises(ValueError, match="stage"):
        xvol.select(xvol.sites(timm.create_model("resnet18"), (3, 64, 64)), policy)


def test_a_backbone_that_is_not_known_is_left_to_the_network() -> None:
    checked("stage9", backbone="vgg11")


@pytest.mark.parametrize(("name", "value"), [("drop_path_rate", 2), ("drop_rate", -0.1), ("drop_rate", 1)])
def test_a_share_that_is_dropped_is_below_one(name: str, value: float) -> None:
    """timm takes it and fails in the first step."""
    with pytest.raises(ValueError, match=f"backbone.kwargs.{name}={value}: at least 0 and below 1"):
        check_names(BackboneConfig(kwargs={name: value}), PlacementConfig(), BranchConfig())


def test_a_branch_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"branch.use=conv\+psa: no branch is named 'psa'; .*did you mean pssa"):
        checked(use="conv+psa")
    with pytest.raises(ValueError, match=r"placement.at.stage2=psa: no branch"):
        checked(at={"stage2": "psa"})
    with pytest.raises(ValueError, match=r"branch.options.psa: no branch"):
        checked(options={"psa": {}})
    checked(use="none", at={"stage2": "conv + pssa"})


def test_a_branch_that_somebody_registered_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branches, "_own", {"mine": xvol.branch_class("conv")})
    checked(use="conv+mine")


def test_torch_is_not_loaded() -> None:
    code = (
        "import sys; from search.config import Config; from search.trial.refuse import check_values\n"
        "try: check_values(Config(**{})) ; c = Config(); c.placement.policy = 'stage9'; check_values(c)\n"
        "except ValueError as error: print(error)\n"
        "print(sorted({'torch', 'timm', 'optuna', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "stage9" in done.stdout
    assert done.stdout.endswith("[]\n")


PLAIN, PLACED = Config(), Config(placement=PlacementConfig("stage3"))
OTHER = Config(placement=PlacementConfig(at={"stage4": "conv+acmix"}), branch=BranchConfig("conv"))
CHOICE = Config(placement=PlacementConfig(at={"stage4": "acmix|none|conv+second_conv"}), branch=BranchConfig("conv"))
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
        ("train.warmup_epochs", [CONSTANT], "constant"),
        ("train.warmup", [Config(train=TrainConfig(warmup_epochs=1))], r"train\.warmup_epochs says"),
        ("train.min_lr", [CONSTANT, PLAIN], "schedule=cosine"),
        ("train.target_threshold", [PLAIN], "loss=bce"),
        ("train.mixup_mode", [PLAIN], r"train\.mixup and train\.cutmix are 0"),
        ("train.mixup_switch_prob", [Config(train=TrainConfig(mixup=0.1))], "not both"),
        ("train.remode", [PLAIN], "erases nothing"),
        ("train.clip_mode", [PLAIN], "clips nothing"),
        ("train.eval_every", [PLAIN], "nothing that is trained"),
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
    refuse_moot(["branch.options.acmix.kernel_att", "branch.options.second_conv.kernel"], [CHOICE], swept=True)
    refuse_moot(["train", "train.opt_kwargs.eps"], [PLAIN, CONSTANT], swept=True)
    refuse_moot(["tracker.project", "experiment", "checkpoint"], [PLAIN], swept=False)


WRONG = [
    ("train.epochs=0", r"train\.epochs=0: at least 1"),
    ("train.schedule=step", "onecycle, cosine, multistep, constant"),
    ("train.amp=half", r"train\.amp=half: allowed are false, true, bfloat16, float16"),
    ("backbone.weights=gone.pt", r"backbone\.weights=gone\.pt: there is no such file"),
    ("backbone.checkpoint=gone", r"backbone\.checkpoint=gone: there is no such file or folder"),
    (
        "backbone={pretrained: true, checkpoint: .}",
        r"pretrained=true and backbone\.checkpoint both say what to start from",
    ),
    ("train.accumulate=3", r"train\.accumulate=3 does not divide data\.batch_size="),
    ("tracker.mode=on", "offline, online, disabled"),
    ("objectives=[test_top1]", "test data"),
    ("branch.gamma=ato", r"branch\.gamma=ato: allowed are auto and a finite number"),
    ("branch.gamma=nan", r"branch\.gamma=nan: allowed are auto and a finite number"),
    ("threads=0", "threads=0: at least 1"),
    ("ranks=0", "ranks=0: allowed are auto, and a whole number from 1"),
    ("ranks=all", "ranks=all: allowed are auto"),
    (
        "ranks=3",
        r"ranks=3: each takes whole parts .* train\.accumulate=1 has 1\. Write train\.accumulate=3, which is another recipe",
    ),
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
    monkeypatch.setattr(classify, "load_data", lambda *_, **__: pytest.fail("data were loaded"))
    with pytest.raises(ValueError, match=message):
        check_values(typed(small(override)))
    with pytest.raises(ValueError, match=message):
        check_trial(small(override))


def test_an_objective_that_is_not_measured_is_told_before_training(small: Small) -> None:
    with pytest.raises(ValueError, match="latency_repeats"):
        check_values(typed(small("objectives=[latency_ms]", "measure.latency_repeats=0")))


def test_a_folder_of_ones_own_images_must_be_named(composed: Any) -> None:
    with pytest.raises(ValueError, match=r"data\.path"):
        check_values(typed(composed("data=folder")))


@pytest.mark.parametrize(("backend", "missing"), [("pycocotools", "pycocotools"), ("faster", "faster_coco_eval")])
def test_what_scores_detections_is_missed_before_a_trial(
    monkeypatch: pytest.MonkeyPatch, backend: str, missing: str
) -> None:
    config = Config(task="instance_segmentation", measure=MeasureConfig(coco_backend=backend))
    check_judge(config)
    monkeypatch.setattr(refuse, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(ValueError, match=rf"task=instance_segmentation .*{backend}: {missing} .*pip install '"):
        check_judge(config)
    check_judge(Config(measure=config.measure))
