import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

import xvol
from xvol.siting import Site, refused, sites

SIZE = (3, 64, 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "counts", "convs"),
    [
        ("resnet18", (4, 4, 4, 4), {"conv1", "conv2"}),
        ("resnet34", (6, 8, 12, 6), {"conv1", "conv2"}),
        ("resnet50", (3, 4, 6, 3), {"conv2"}),
        ("resnet50d", (3, 4, 6, 3), {"conv2"}),
        ("seresnet50", (3, 4, 6, 3), {"conv2"}),
        ("resnext50_32x4d", (3, 4, 6, 3), {"conv2"}),
        ("wide_resnet50_2", (3, 4, 6, 3), {"conv2"}),
        ("xvol_proxy_resnet", (2, 2, 2, 2), {"conv1", "conv2"}),
    ],
)
def test_resnet_family(name: str, counts: tuple[int, ...], convs: set[str]) -> None:
    model = timm.create_model(name)
    found = sites(model, SIZE)
    assert Counter(site.stage for site in found) == dict(enumerate(counts, start=1))
    order = [fqn for fqn, _ in model.named_modules()]
    assert [site.fqn for site in found] == sorted((site.fqn for site in found), key=order.index)
    for site in found:
        stage, block, conv = site.fqn.split(".")
        assert (stage, int(block)) == (f"layer{site.stage}", site.block)
        assert conv in convs
        assert site.norm_fqn == site.fqn.replace("conv", "bn")


def test_a_strided_grouped_site_in_full() -> None:
    model = timm.create_model("resnext50_32x4d")
    site = next(site for site in sites(model, SIZE) if site.fqn == "layer2.0.conv2")
    assert dataclasses.asdict(site) == {
        "fqn": "layer2.0.conv2",
        "stage": 2,
        "block": 0,
        "kernel": 3,
        "stride": 2,
        "padding": 1,
        "dilation": 1,
        "groups": 32,
        "in_chs": 256,
        "out_chs": 256,
        "norm_fqn": "layer2.0.bn2",
        "in_size": (16, 16),
        "out_size": (8, 8),
        "params": 9 * 256 * 8,
        "macs": 64 * 9 * 256 * 8,
    }
    assert site.geometry.groups == 32
    assert {site} == {dataclasses.replace(site)}


def test_dilated_stages_are_sites() -> None:
    found = sites(timm.create_model("resnet50", output_stride=8), SIZE)
    assert {site.dilation for site in found} == {1, 2, 4}
    assert all(site.padding == site.dilation for site in found)


def test_blocks_that_stand_there_are_passed_over() -> None:
    model = timm.create_model("xvol_proxy_resnet")
    before = sites(model, SIZE)
    xvol.convert(model, {"layer2.0.conv1": xvol.BlockSpec(), "layer3.0.conv2": xvol.BlockSpec(("pssa",))}, SIZE)
    taken = {"layer2.0.conv1", "layer3.0.conv2"}
    assert sites(model, SIZE) == [site for site in before if site.fqn not in taken]
    assert sites(xvol.fuse(model), SIZE) == sites(model, SIZE)


class Parts(nn.Module):
    """A block in which some convolutions feed a norm, and some only look as if they did."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Conv2d(8, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.apart = nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.cut = nn.Conv2d(8, 8, 3, padding=0)
        self.flat = nn.Conv2d(8, 8, (1, 3), padding=(0, 1))
        self.even = nn.Conv2d(8, 8, 2, padding=1)
        self.mirrored = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.unnormed = nn.Conv2d(8, 8, 3, padding=1)
        self.worded = nn.Conv2d(8, 8, 3, padding="same")
        self.valid = nn.Conv2d(8, 8, 3, padding="valid")
        self.raw = nn.Conv2d(8, 8, 3, padding=1)
        self.bare = nn.Conv2d(8, 8, 3, padding=1)
        self.layered = nn.Conv2d(8, 8, 3, padding=1)
        self.idle = nn.Conv2d(8, 8, 3, padding=1)
        names = ("good", "shared", "apart", "depthwise", "pointwise", "cut", "flat", "even", "mirrored", "twice")
        self.norms = nn.ModuleDict({name: nn.BatchNorm2d(8) for name in (*names, "worded", "valid", "raw")})
        self.norms["bare"] = nn.BatchNorm2d(8, affine=False)
        self.norms["layered"] = nn.GroupNorm(2, 8)
        self.look = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms["good"](self.good(x))
        y = self.shared(x)
        x = self.norms["shared"](y) + self.look(y)
        x = self.norms["apart"](self.apart(x) + 1)
        y = self.raw(x)
        x = self.norms["raw"](y) + y.relu()
        for name in ("depthwise", "pointwise", "cut", "flat", "even", "mirrored", "worded", "valid", "bare", "layered"):
            x = self.norms[name](getattr(self, name)(x))
        return self.unnormed(self.twice(self.norms["twice"](self.twice(x))))


class Home(nn.Module):
    """A model without feature_info: a stem, then a sequence of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.body = nn.Sequential(Parts(), Parts())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x)).mean((2, 3))


def test_centred_squares_are_legal_and_all_else_has_its_reason() -> None:
    found = sites(Home(), (3, 16, 16))
    normed = {
        name: f"norms.{name}" for name in ("good", "depthwise", "worded")
    }  # by one batch norm, and nowhere else read
    legal = ("good", "shared", "apart", "depthwise", "twice", "unnormed", "worded", "raw", "bare", "layered")
    assert [(site.fqn, site.stage, site.block, site.norm_fqn) for site in found] == [
        (f"body.{block}.{name}", 1, block, f"body.{block}.{normed[name]}" if name in normed else None)
        for block in (0, 1)
        for name in legal
    ]
    assert {site.padding for site in found} == {1}, "padding='same' is written in pixels"
    assert {site.fqn.removeprefix("body.0."): site.macs // (9 * 8 * 8) for site in found[:10] if site.groups == 1} == {
        name: pixels
        for name, pixels in zip(legal, [256, 256, 256, 0, 338, 169, 225, 256, 169, 169], strict=True)
        if pixels
    }, "a convolution that runs twice costs twice"
    reasons = {fqn: reason for fqn, reason in refused(Home(), (3, 16, 16)) if fqn.startswith("body.1.")}
    assert reasons == {
        "body.1.cut": "its padding (0, 0) does not centre the window, which needs 1",
        "body.1.flat": "its kernel 1x3 is not square",
        "body.1.even": "its kernel 2x2 is even and has no centre",
        "body.1.mirrored": "its border is 'reflect', not zero",
        "body.1.valid": "its padding valid does not centre the window, which needs 1",
        "body.1.idle": "it does not run as a module in a forward pass",
    }


FAMILIES = {
    "resnext26ts": ([2, 2, 2, 2], {}),
    "regnety_002": ([1, 1, 4, 7], {}),
    "resnetv2_18": ([4, 4, 4, 4], {}),
    "repvgg_a0": ([2, 4, 14, 1], {}),
    "mobilenetv2_035": ([1, 2, 3, 7, 4], {}),
    "mobilenetv3_small_050": ([1, 2, 5, 3], {}),
    "tf_efficientnet_lite0": ([1, 1, 1, 5, 4], {"it is a Conv2dSame": 4}),
    "convnext_atto": ([2, 2, 6, 2], {"its kernel 2x2 is even": 3}),
    "densenet121": ([6, 12, 24, 16], {}),
    "nf_resnet26": ([2, 2, 2, 2], {}),
    "vgg11_bn": ([1, 1, 2, 2, 2], {}),
    "vgg11": ([1, 1, 2, 2, 2], {}),
    "dla46_c": ([2, 4, 4, 2], {}),
    "hrnet_w18_small": ([1, 11, 17, 27], {}),
    "cspresnet50": ([3, 4, 6, 3], {}),
    "darknet17": ([2, 2, 2, 2, 2], {}),
    "rexnet_100": ([1, 2, 2, 6, 5], {}),
    "mobilevit_xxs": ([1, 3, 3, 3, 3], {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families(name: str) -> None:
    """Sites in each stage, and what is refused; every spatial convolution of the stages is one or the other."""
    counts, reasons = FAMILIES[name]
    arguments = {"num_classes": 0} if name.startswith("vgg") else {}
    with torch.device("meta"):
        model = timm.create_model(name, **arguments)
    found = sites(model, SIZE) if counts else []
    assert Counter(site.stage for site in found) == dict(enumerate(counts, start=1))
    given = Counter(refusal.reason for refusal in refused(model, SIZE))
    assert {start: sum(n for reason, n in given.items() if reason.startswith(start)) for start in reasons} == reasons
    assert sum(given.values()) == sum(reasons.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "counts", "first"),
    [
        ("levit_128s", {1: 4}, "stem.conv1.linear"),
        ("vit_base_r26_s32_224", {1: 2, 2: 1, 3: 1, 4: 1}, "patch_embed.backbone.stages.0.blocks.0.conv2"),
        ("hiera_tiny_224", {1: 1}, "patch_embed.proj"),
    ],
)
def test_a_network_before_a_transformer_has_sites(name: str, counts: dict[int, int], first: str) -> None:
    found = sites(timm.create_model(name), (3, 224, 224))
    assert Counter(site.stage for site in found) == counts
    assert found[0].fqn == first


def test_depthwise_and_norms_with_activations_are_sites() -> None:
    model = timm.create_model("mobilenetv2_035")
    found = sites(model, SIZE)
    assert all(site.groups == site.in_chs == site.out_chs for site in found)
    assert all(type(model.get_submodule(site.norm_fqn)) is BatchNormAct2d for site in found)
    assert [site.block for site in found if site.stage == 4] == list(range(7)), "blocks.3 and blocks.4 are one stage"


def test_a_model_without_a_site_says_why() -> None:
    with pytest.raises(
        ValueError,
        match=r"VisionTransformer has no site.*1 stages.*1 were refused: 1x its kernel 16x16 is even.*resnet18",
    ):
        sites(timm.create_model("test_vit"), (3, 160, 160))


def test_models_without_stages_and_wrong_sizes() -> None:
    assert [site.stage for site in sites(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)), SIZE)] == [1]
    with pytest.raises(ValueError, match="0 stages were found"):
        sites(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), SIZE)
    with pytest.raises(ValueError, match="does not go through"):
        sites(timm.create_model("resnet18"), (1, 64, 64))


def test_looking_leaves_the_model_alone() -> None:
    model = timm.create_model("xvol_proxy_resnet").train()
    model.layer1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    assert all(isinstance(site, Site) for site in sites(model, SIZE))
    assert torch.equal(stream, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert not model.layer1[0].bn1.training
    assert all(not module._forward_hooks for module in model.modules())


PAGE = (Path(__file__).parents[2] / "docs" / "surgery.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\| `(\w+)` \| ([\d /]+) \| (\d+) \| (\d+) \(`([^`]+)`\) \| (\d+) \| (\d+) \| `([^`]+)` \|$", PAGE, re.MULTILINE
)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_families_in_the_docs(row: tuple[str, ...]) -> None:
    name, stages, normed, selected, policy, last, every, last_site = row
    with torch.device("meta"):
        model = timm.create_model(name)
    found = sites(model, model.pretrained_cfg["input_size"])
    counts = Counter(site.stage for site in found)
    assert " / ".join(str(counts[stage]) for stage in range(1, max(counts) + 1)) == stages
    assert sum(site.norm_fqn is not None for site in found) == int(normed)
    numbers = [len(xvol.select(found, words)) for words in (policy, "last_k=2", "every=2")]
    assert numbers == [int(selected), int(last), int(every)]
    assert found[-1].fqn == last_site


def test_the_docs_show_a_dozen_families() -> None:
    assert len(ROWS) >= 12
