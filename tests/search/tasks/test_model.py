from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from search.config import Architecture, typed
from search.tasks.model import build, train_blocks_alone, whiten
from xvol import XVolution2d

from .conftest import Small

STAGE3, STAGE4 = "placement.policy=stage3", "placement.policy=stage4"


@pytest.fixture
def made(small: Small) -> Any:
    """Build from overrides, for digits at 16x16."""

    def make(*overrides: str) -> tuple[nn.Module, Architecture]:
        return build(typed(small(*overrides)), channels=1, classes=10, image_size=16)

    return make


def blocks(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, XVolution2d)]


def test_the_plain_network(made: Any) -> None:
    model, architecture = made()
    assert (architecture.label, architecture.sites, blocks(model)) == ("plain", [], [])
    assert model.training
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


def test_blocks_stand_where_the_architecture_says(made: Any) -> None:
    model, architecture = made(STAGE3, "branch.options.pssa.embed_ratio=0.25")
    assert blocks(model) == architecture.sites
    assert all(site.startswith("layer3.") for site in architecture.sites)
    assert architecture.label == "stage3: conv+pssa(embed_ratio=0.25)"
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        ([], [STAGE3, "branch.use=conv"]),
        ([], ["placement.policy=all", "branch.use=conv", "branch.gamma=1"]),
        ([], ["placement.at.stage3=none", "placement.at.stage4=conv"]),
        ([], [STAGE3, "placement.at.stage3=none"]),
        ([], ["branch.options.pssa.rank=2"]),
        ([], ["placement.policy=plain"]),
        ([STAGE3], ["placement.at.stage3=conv+pssa"]),
        ([STAGE3], ["placement.at.stage3=pssa+conv"]),
        ([STAGE3], ["placement.policy=stage3.*", "branch.gamma=1"]),
        ([STAGE3], [STAGE3, "branch.options.pssa.rank=1"]),
        ([STAGE3, "branch.options.pssa.embed_ratio=1.0"], [STAGE3, "branch.options.pssa.embed_ratio=1"]),
        ([STAGE3], ["placement.policy=all", "placement.at.all=none", "placement.at.stage3=conv+pssa"]),
        (["placement.policy=stage3+stage4"], [STAGE3, "placement.at.stage4=conv+pssa"]),
        (["placement.policy=stage3+stage4"], ["placement.at.stage4=conv+pssa", "placement.at.stage3=conv+pssa"]),
    ],
)
def test_equal_networks_are_one_architecture(made: Any, overrides: list[str], same: list[str]) -> None:
    (model, one), (twin, other) = made(*overrides), made(*same)
    assert one == other
    assert one.hash == other.hash
    assert one.label == other.label
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in twin.state_dict().items()}
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in model.state_dict().items())


def test_different_networks_are_different_architectures(made: Any) -> None:
    cases: list[list[str]] = [
        [],
        [STAGE3],
        [STAGE4],
        ["placement.policy=all"],
        [STAGE3, "branch.use=pssa"],
        [STAGE3, "branch.gamma=0"],
        [STAGE3, "branch.gamma=0.5"],
        [STAGE3, "branch.options.pssa.rank=2"],
        ["placement.at.stage3=pssa", "placement.at.stage4=conv+pssa"],
        ["placement.at.stage4=pssa", "placement.at.stage3=conv+pssa"],
        ["backbone.kwargs.channels=[8,16,32,48]"],
    ]
    assert len({made(*case)[1].hash for case in cases}) == len(cases)


def test_a_later_selection_goes_before_an_earlier_one(made: Any) -> None:
    first = made("placement.at.all=pssa", "placement.at.stage3=none")[1]
    assert first.sites
    assert not [site for site in first.sites if site.startswith("layer3.")]
    assert made("placement.at.stage3=none", "placement.at.all=pssa")[1] == made("placement.at.all=pssa")[1]


def test_a_seed_gives_one_backbone_wherever_blocks_stand(made: Any) -> None:
    plain = made("seed=3")[0].state_dict()
    for policy in (STAGE3, STAGE4, "placement.policy=all"):
        placed = made("seed=3", policy)[0].state_dict()
        shared = plain.keys() & placed.keys()
        assert len(shared) > 20
        assert all(torch.equal(plain[name], placed[name]) for name in shared), policy
        moved = sorted(plain[name].sum().item() for name in plain.keys() - shared if plain[name].ndim == 4)
        taken = [v.sum().item() for k, v in placed.items() if k not in shared and v.ndim == 4]
        assert all(any(value == other for other in taken) for value in moved)  # the host convolutions, under new names
    other = made("seed=4")[0].state_dict()
    assert not torch.equal(plain["conv1.weight"], other["conv1.weight"])


def test_a_block_starts_equal_whatever_stands_elsewhere(made: Any) -> None:
    alone, beside = made(STAGE3)[0].state_dict(), made("placement.policy=stage3+stage4")[0].state_dict()
    names = [name for name in alone if name.startswith("layer3.")]
    assert any("pssa" in name for name in names)
    assert all(torch.equal(alone[name], beside[name]) for name in names)


def test_a_block_at_gamma_0_beside_its_convolution_starts_as_that_convolution(made: Any) -> None:
    images = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for gamma in ("0", "null"):
            assert torch.equal(made()[0].eval()(images), made(STAGE3, f"branch.gamma={gamma}")[0].eval()(images))
        assert not torch.equal(made()[0].eval()(images), made(STAGE3, "branch.gamma=1")[0].eval()(images))


def gammas(model: nn.Module) -> set[float]:
    """Weights of the norms after all branches but conv."""
    parts = [part for block in model.modules() if isinstance(block, XVolution2d) for part in block.parts()]
    return {value for name, _, norm in parts if name != "conv" for value in norm.weight.tolist()}


@pytest.mark.parametrize("use", ["conv+pssa", "conv+second_conv+pssa", "pssa"])
def test_training_from_scratch_starts_at_the_gamma_of_the_papers_batch_norm(made: Any, use: str) -> None:
    model, architecture = made("placement.policy=stage3.last", f"branch.use={use}")
    assert gammas(model) == {1.0}
    assert architecture == made("placement.policy=stage3.last", f"branch.use={use}", "branch.gamma=1")[1]
    assert "gamma" not in architecture.label


def test_training_from_a_trained_network_keeps_its_function(made: Any, tmp_path: Path) -> None:
    plain = made("seed=5")[0]
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    trained = f"backbone.kwargs.checkpoint_path={tmp_path / 'plain.pth'}"
    model, architecture = made(trained, STAGE3)
    assert gammas(model) == {0.0}
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(model.eval()(images), plain.eval()(images))
    assert gammas(made(trained, STAGE3, "branch.use=pssa")[0]) == {1.0}  # no function is left to keep
    assert gammas(made(trained, STAGE3, "branch.gamma=1")[0]) == {1.0}
    assert architecture.label == "stage3: conv+pssa"
    assert made(trained, STAGE3, "branch.gamma=1")[1].label == "stage3: conv+pssa gamma=1"
    assert made(STAGE3, "branch.gamma=0")[1].label == "stage3: conv+pssa gamma=0"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.name=resnet5"], r"backbone\.name=resnet5: .*resnet50"),
        (["backbone.name=xvol_proxy"], r"did you mean .*xvol_proxy_resnet"),
        (["backbone.name=zzzzzzzzzz"], r"timm\.list_models"),
        (["backbone.kwargs.drop_pth_rate=0.1"], r"backbone\.kwargs=.*does not take them"),
        (["backbone.pretrained=true"], "no pretrained weights"),
        (["placement.policy=stage9"], "stage9.*stage3, stage4"),
        (["placement.policy=stag3"], "stag3.*stage3"),
        (["placement.policy=layer3.0.conv9"], r"layer3\.0\.conv2"),
        (["placement.policy=''"], "empty part"),
        (["placement.at.stag3=pssa"], "stag3.*stage3"),
        (["placement.at.stage3=psa"], "psa.*pssa"),
        (["branch.use=psa"], "psa.*pssa"),
        (["branch.use=conv+conv"], "named twice"),
        (["branch.use="], "branch"),
        (["branch.options.psa.rank=1"], r"branch\.options: .*psa.*pssa"),
        (["branch.options.pssa.rnk=1"], "rnk.*rank"),
        (["branch.options.pssa.rank=0", STAGE3], "rank"),
        (["branch.options.pssa=3"], r"branch\.options"),
    ],
)
def test_what_cannot_be_built_is_answered_with_what_is_near(made: Any, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(*overrides)


def test_another_model_of_timm(made: Any) -> None:
    model, architecture = made("backbone.name=resnet18", "placement.policy=stage4.last", "branch.use=pssa")
    assert architecture.backbone == "resnet18"
    assert blocks(model) == architecture.sites != []
    assert "layer4.1" in architecture.sites[0]


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_it_starts_from_a_file_of_weights_and_keeps_what_they_compute(made: Any, tmp_path: Path, suffix: str) -> None:
    trained, _ = made("seed=7")
    nn.init.normal_(trained.bn1.weight)
    path = tmp_path / f"weights.{suffix}"
    state = {name: value for name, value in trained.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save({"state_dict": state}, path) if suffix == "pt" else save_file(state, path)
    plain, _ = made(f"backbone.weights={path}")
    model, architecture = made(f"backbone.weights={path}", STAGE3)
    assert architecture.label == "stage3: conv+pssa"  # gamma 0 is what "auto" is here
    images = torch.randn(2, 1, 16, 16)
    expected = trained.eval()(images)
    assert torch.equal(plain.eval()(images), expected)
    assert torch.equal(model.eval()(images), expected)


def test_a_head_of_other_classes_is_initialised(made: Any, tmp_path: Path) -> None:
    trained, _ = made("seed=7")
    state = {**trained.state_dict(), "fc.weight": torch.zeros(1000, 64), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "weights.pt")
    model, _ = made(f"backbone.weights={tmp_path / 'weights.pt'}")
    assert torch.equal(model.conv1.weight, trained.conv1.weight)
    assert torch.equal(model.fc.weight, made()[0].fc.weight)


def test_weights_of_another_network_and_code_are_refused(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    placed, _ = made(STAGE3)
    torch.save(placed.state_dict(), "placed.pt")
    torch.save(Bomb(), "code.pt")
    Path("torn.safetensors").write_bytes(b"{")
    with pytest.raises(ValueError, match=r"weights=placed\.pt: not of the plain ProxyResNet .* such as layer3"):
        made("backbone.weights=placed.pt")
    for name in ("code.pt", "torn.safetensors", "gone.pt"):
        with pytest.raises(ValueError, match=rf"weights={name}: cannot be read as a state dict"):
            made(f"backbone.weights={name}")
    assert not Path("exploded").exists()


def smooth(count: int = 64, channels: int = 3) -> torch.Tensor:
    """Pictures whose neighbouring pixels are alike, as those of the world are."""
    small = torch.randn(count, channels, 6, 6, generator=torch.Generator().manual_seed(1))
    return F.interpolate(small, size=(24, 24), mode="bicubic")


def test_a_whitened_convolution_gives_uncorrelated_maps_of_both_signs() -> None:
    torch.manual_seed(0)
    model = timm.create_model("xvol_proxy_resnet", channels=(16, 16, 16, 16))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = smooth()
    whiten(model, images)
    first = model.conv1.weight
    assert torch.equal(first[8:], -first[:8])
    assert [n for n, value in model.state_dict().items() if not torch.equal(value, before[n])] == ["conv1.weight"]
    maps = model.conv1(images)[:, :8].transpose(0, 1).flatten(1).detach()
    moments = maps @ maps.T / maps.shape[1]
    torch.testing.assert_close(moments, torch.diag(moments.diag()), atol=1e-4, rtol=0)
    # 1, but for the damping of small ones
    assert moments.diag().tolist() == sorted(moments.diag().tolist(), reverse=True)
    assert 0.5 < float(moments.diag()[0]) < 1
    again = timm.create_model("xvol_proxy_resnet", channels=(16, 16, 16, 16))
    whiten(again, images)
    assert torch.equal(again.conv1.weight, first)


def test_filters_beyond_twice_the_patch_stay_as_they_were() -> None:
    model = timm.create_model("xvol_proxy_resnet", channels=(32, 16, 16, 16), in_chans=1)
    before = model.conv1.weight.clone()
    whiten(model, smooth(channels=1))
    changed = [not torch.equal(one, other) for one, other in zip(model.conv1.weight, before, strict=True)]
    assert changed == [True] * 18 + [False] * 14


@pytest.mark.parametrize(
    "model", [nn.Linear(3, 2), nn.Conv2d(6, 4, 3), nn.Conv2d(3, 3, 3, groups=3)], ids=["none", "channels", "groups"]
)
def test_a_network_that_does_not_begin_with_a_convolution_is_not_whitened(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"train\.whiten=true: .*leave it false"):
        whiten(model, smooth())


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        ((STAGE3,), True),
        ((STAGE3, "branch.use=pssa"), False),
        ((STAGE3, "branch.options.conv.kernel=5"), False),
    ],
)
def test_only_blocks_learn_where_the_rest_is_left_as_it_is(made: Any, overrides: tuple[str, ...], kept: bool) -> None:
    model, _ = made(*overrides)
    train_blocks_alone(model)
    inside = tuple(f"{name}." for name in blocks(model))
    for name, parameter in model.named_parameters():
        is_host = kept and (".branches.conv." in name or ".norms.conv." in name)
        assert parameter.requires_grad == (name.startswith(inside) and not is_host), name
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.training == (name.startswith(inside) and not (kept and name.endswith(".norms.conv"))), name


def test_a_plain_network_has_nothing_that_learns(made: Any) -> None:
    model, _ = made()
    train_blocks_alone(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
