"""Names that are refused without torch are the ones the network would be refused for."""

import subprocess
import sys

import pytest
import timm
import torch

import xvol
from search.space.architecture import BackboneConfig, BranchConfig, PlacementConfig
from search.trial.names import STAGES, check_names
from xvol import registry
from xvol.stages import find_stages


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


def test_a_branch_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"branch.use=conv\+psa: no branch is named 'psa'; .*did you mean pssa"):
        checked(use="conv+psa")
    with pytest.raises(ValueError, match=r"placement.at.stage2=psa: no branch"):
        checked(at={"stage2": "psa"})
    with pytest.raises(ValueError, match=r"branch.options.psa: no branch"):
        checked(options={"psa": {}})
    checked(use="none", at={"stage2": "conv + pssa"})


def test_a_branch_that_somebody_registered_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_own", {"mine": xvol.branch_class("conv")})
    checked(use="conv+mine")


def test_torch_is_not_loaded() -> None:
    code = (
        "import sys; from search.config import Config; from search.trial.check import check_values\n"
        "try: check_values(Config(**{})) ; c = Config(); c.placement.policy = 'stage9'; check_values(c)\n"
        "except ValueError as error: print(error)\n"
        "print(sorted({'torch', 'timm', 'optuna', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "stage9" in done.stdout
    assert done.stdout.endswith("[]\n")
