"""Conversion preserves the function, and nothing depends on what is placed elsewhere."""

import copy
import io
import pickle

import pytest
import timm
import torch
from timm.layers import ScaledStdConv2d, StdConv2d
from timm.utils.model import reparameterize_model
from torch import nn

import xvol
from xvol.surgery import keep_from_reparameterising

SIZE = (3, 32, 32)
SPEC = xvol.BlockSpec()


def build(name: str = "xvol_proxy_resnet", **arguments: object) -> nn.Module:
    torch.manual_seed(3)
    return timm.create_model(name, num_classes=5, **arguments)


def placed(model: nn.Module, policy: str, spec: xvol.BlockSpec = SPEC) -> nn.Module:
    chosen = xvol.select(xvol.sites(model, SIZE), policy)
    return xvol.convert(model, {site.fqn: spec for site in chosen}, SIZE)


def live(model: nn.Module) -> None:
    """A few steps of training: statistics and weights move, zero-initialised norms too."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        model.train()(torch.randn(4, *SIZE)).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("resnet18", "all"),
        ("resnet34", "stage3.*"),
        ("resnet50", "all"),
        ("resnext50_32x4d", "all"),
        ("xvol_proxy_resnet", "all"),
    ],
)
def test_logits_stay_bitwise_equal(name: str, policy: str) -> None:
    """In eval and in train mode, and the running statistics with them."""
    model = build(name)
    live(model)
    twin = placed(copy.deepcopy(model), policy, xvol.BlockSpec.make(options={"pssa": {"embed_ratio": 0.25}}))
    assert any(isinstance(module, xvol.XVolution2d) for module in twin.modules())
    x = torch.randn(4, *SIZE)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), twin.eval()(x))
        assert torch.equal(model.train()(x), twin.train()(x))
        assert torch.equal(model.eval()(x), twin.eval()(x))


FAMILIES = [
    "resnext26ts",
    "regnety_002",
    "resnetv2_18",
    "repvgg_a0",
    "mobilenetv2_035",
    "mobilenetv3_small_050",
    "tf_efficientnet_lite0",
    "dla46_c",
    "cspresnet50",
    "mobilevit_xxs",
]


BARE = [
    *("convnext_atto", "mambaout_femto", "fasternet_t0", "edgenext_xx_small", "densenet121", "caformer_s18"),
    *("nf_resnet26", "test_nfnet", "resnetv2_50"),  # weights that are standardised
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "keeps_norm"),
    [*((name, False) for name in (*FAMILIES, *BARE)), ("resnext26ts", True), ("repvgg_a0", True)],
)
def test_families(name: str, keeps_norm: bool) -> None:
    """Logits bitwise equal in eval and train mode, dropout and stochastic depth included; fused within float64's reach."""
    model = build(name, drop_rate=0.1)
    for parameter in model.parameters():  # behind a zero-initialised norm or head all would be equal
        if (parameter == parameter.flatten()[0]).all():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    size = (3, 64, 64)
    chosen = xvol.sites(model, size)
    spec = xvol.BlockSpec.make(options={"pssa": {"embed_ratio": 0.25}}, keeps_norm=keeps_norm)
    twin = xvol.convert(copy.deepcopy(model), {site.fqn: spec for site in chosen}, size)
    assert sum(isinstance(module, xvol.XVolution2d) for module in twin.modules()) == len(chosen)
    x = torch.randn(2, *size)
    with torch.no_grad():
        for training in (False, True, False):
            logits = []
            for each in (model, twin):
                torch.manual_seed(1)
                logits.append(each.train(training)(x))
            assert torch.equal(*logits)
        twin.double()
        for block in (module for module in twin.modules() if isinstance(module, xvol.XVolution2d)):
            nn.init.normal_(block.norms["pssa"].weight, std=0.1)
        spoken = twin(x.double())
        scale = spoken.abs().max().item()
        assert (spoken - model.double()(x.double())).abs().max() > 1e-6 * scale, "the branches must be felt"
    fused = xvol.fuse(twin)
    assert xvol.fuse_error(twin, fused, x.double()) < 1e-9 * scale
    assert xvol.fuse_error(fused, reparameterize_model(twin), x.double()) < 1e-9 * scale


@pytest.mark.parametrize("conv", ["plain", "standardised", "scaled"])
@pytest.mark.parametrize("behind", ["batch norm that stays", "layer norm", "nothing"])
def test_what_follows_a_host_that_gives_up_no_norm_stays(conv: str, behind: str) -> None:
    """The convolution is the block's, itself and bit by bit; the norm behind it, if there is one, is where it was, and folds if it can."""
    kinds = {"plain": nn.Conv2d, "standardised": StdConv2d, "scaled": ScaledStdConv2d}
    host = kinds[conv](6, 8, 3, padding=1, bias=True)
    norm = {"batch norm that stays": nn.BatchNorm2d(8), "layer norm": nn.GroupNorm(1, 8), "nothing": nn.Identity()}[
        behind
    ]
    model = nn.Sequential(nn.Sequential(nn.Sequential(host, norm), nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())))
    live_on = torch.randn(4, 6, 9, 7)
    expected = [copy.deepcopy(model).train(mode)(live_on) for mode in (True, False)]
    site = xvol.sites(model, (6, 9, 7))[0]
    assert site.norm_fqn == ("0.0.1" if behind.startswith("batch") else None)
    state, names = model.state_dict(), set(model.state_dict())
    twin = xvol.convert(model, {site.fqn: xvol.BlockSpec.make(keeps_norm=behind.startswith("batch"))}, (6, 9, 7))
    block = twin[0][0][0]
    assert block.branches["conv"].conv is host
    assert twin[0][0][1] is norm
    assert block.host == (site.fqn, None)
    assert set(xvol.plain_names(twin).values()) == names
    assert all(torch.equal(state[theirs], twin.state_dict()[ours]) for ours, theirs in xvol.plain_names(twin).items())
    for mode, logits in zip((True, False), expected, strict=True):
        torch.manual_seed(1)
        assert torch.equal(copy.deepcopy(twin).train(mode)(live_on), logits)
    nn.init.normal_(block.norms["pssa"].weight)
    twin.eval().double()
    for fused in (xvol.fuse(twin), xvol.fuse(twin, (6, 9, 7))):
        assert xvol.fuse_error(twin, fused, live_on.double()) < 1e-12
    nn.init.zeros_(block.norms["pssa"].weight)
    torch.testing.assert_close(block.to_conv()(live_on.double()), host(live_on.double()))


def test_a_convolution_that_runs_twice_is_a_block_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norms = nn.Conv2d(4, 4, 3, padding=1), nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for norm in self.norms:
                x = norm(self.conv(x)).relu()
            return x

    model, x = nn.Sequential(nn.Sequential(Twice(), Twice())), torch.randn(2, 4, 8, 8)
    twin = xvol.convert(copy.deepcopy(model), {"0.1.conv": SPEC}, (4, 8, 8))
    assert torch.equal(twin.train()(x), model.train()(x))
    nn.init.normal_(twin[0][1].conv.norms["pssa"].weight)
    twin.eval().double()
    assert xvol.fuse_error(twin, xvol.fuse(twin), x.double()) < 1e-12


def test_a_norm_with_its_activation_is_parted() -> None:
    """The block goes before the activation: the norm is plain, its parameters and statistics are the host's own."""
    model = build("mobilenetv2_035", act_layer=nn.SiLU)
    host = model.blocks[1][0]
    norm, drop, act = host.bn2, host.bn2.drop, host.bn2.act
    norm.eps, norm.momentum = 1e-3, 0.02
    norm.eval()
    xvol.convert(model, {"blocks.1.0.conv_dw": SPEC}, (3, 64, 64))
    taken = host.conv_dw.norms["conv"]
    assert type(taken) is nn.BatchNorm2d
    assert taken.weight is norm.weight
    assert taken.bias is norm.bias
    assert taken.running_var is norm.running_var
    assert (taken.eps, taken.momentum, taken.training) == (1e-3, 0.02, False)
    assert (host.bn2.drop, host.bn2.act) == (drop, act)
    assert not host.bn2.training


def test_hosts_that_reparameterise_themselves_are_left_standing() -> None:
    """A RepVGG block with a block inside stays; its neighbours still go through timm's re-parameterisation."""
    model = build("repvgg_a0").eval()
    xvol.convert(model, {"stages.0.0.conv_kxk.conv": SPEC}, (3, 64, 64))
    deployed = pickle.loads(pickle.dumps(reparameterize_model(copy.deepcopy(model))))
    assert hasattr(deployed.stages[0][0], "conv_1x1")
    assert not hasattr(deployed.stages[0][1], "conv_1x1")
    x = torch.randn(1, 3, 64, 64)
    assert xvol.fuse_error(model, deployed, x) < 1e-4


def test_host_parameters_keep_their_identity_and_their_flags() -> None:
    model = build().eval()
    conv, norm = model.layer2[0].conv1, model.layer2[0].bn1
    conv.weight.requires_grad_(False)
    assert placed(model, "layer2.0.conv1") is model
    block = model.layer2[0].conv1
    assert block.branches["conv"].conv is conv
    assert block.norms["conv"] is norm
    assert type(model.layer2[0].bn1) is nn.Identity
    assert not any(module.training for module in model.modules())
    assert block.branches["pssa"].geometry.stride == 2


def test_zero_initialised_norms_are_carried_over_and_silent_branches_learn() -> None:
    model = placed(build(zero_init_last=True), "all")
    assert not model.layer3[0].conv2.norms["conv"].weight.any()
    assert model.layer3[0].conv1.norms["conv"].weight.all()
    model.train()(torch.randn(4, *SIZE)).square().mean().backward()
    for block in (module for module in model.modules() if isinstance(module, xvol.XVolution2d)):
        gamma = block.norms["pssa"].weight
        assert not gamma.any()
    assert model.layer4[0].conv2.norms["pssa"].weight.grad.any(), "the branch beside a zero norm must learn too"
    plain = placed(build(), "stage2")
    plain.train()(torch.randn(4, *SIZE)).square().mean().backward()
    assert plain.layer2[0].conv1.norms["pssa"].weight.grad.any()


def test_plain_parts_do_not_depend_on_what_is_placed() -> None:
    plain = build().state_dict()
    for policy in ("stage2", "all"):
        torch.manual_seed(3)
        model = placed(build(), policy)
        after = torch.rand(3)
        kept = {key: value for key, value in model.state_dict().items() if key in plain}
        assert all(torch.equal(value, plain[key]) for key, value in kept.items())
        build()
        assert torch.equal(after, torch.rand(3)), "the global stream must go on as if nothing had been placed"


def test_a_branch_depends_on_the_seed_its_site_and_its_name_alone() -> None:
    alone = placed(build(), "layer2.0.conv1").layer2[0].conv1.branches["pssa"].state_dict()
    beside = placed(build(), "all").layer2[0].conv1.branches["pssa"].state_dict()
    without = placed(build(), "all", xvol.BlockSpec(("pssa",))).layer2[0].conv1.branches["pssa"].state_dict()
    for key, value in alone.items():
        assert torch.equal(value, beside[key])
        assert torch.equal(value, without[key])
    model = placed(build(), "all")
    assert not torch.equal(model.layer1[0].conv1.branches["pssa"].taps, model.layer1[0].conv2.branches["pssa"].taps)
    torch.manual_seed(4)
    other = placed(timm.create_model("xvol_proxy_resnet"), "all")
    assert not torch.equal(model.layer1[0].conv1.branches["pssa"].taps, other.layer1[0].conv1.branches["pssa"].taps)


def test_another_kernel_starts_afresh_with_the_hosts_affine_part() -> None:
    model = build(zero_init_last=True)
    live(model)
    weight = model.layer2[0].bn2.weight.detach().clone()
    placed(model, "layer2.0.conv2", xvol.BlockSpec.make(["conv"], {"conv": {"kernel": 5}}))
    block = model.layer2[0].conv2
    assert block.branches["conv"].conv.kernel_size == (5, 5)
    assert torch.equal(block.norms["conv"].weight, weight)
    assert (block.norms["conv"].running_var == 1).all()


def test_dtype_and_norm_settings_follow_the_host() -> None:
    model = build().double()
    model.layer1[0].bn1.eps, model.layer1[0].bn1.momentum = 1e-3, 0.02
    placed(model, "stage1", xvol.BlockSpec(("pssa",)))
    block = model.layer1[0].conv1
    assert {parameter.dtype for parameter in block.parameters()} == {torch.float64}
    assert (block.norms["pssa"].eps, block.norms["pssa"].momentum) == (1e-3, 0.02)
    assert (block.norms["pssa"].weight == 1).all()


def test_state_dict_round_trip_through_a_file() -> None:
    model = placed(build(), "stage[2,4]")
    live(model)
    stored = io.BytesIO()
    torch.save(model.state_dict(), stored)
    stored.seek(0)
    torch.manual_seed(9)
    other = placed(timm.create_model("xvol_proxy_resnet", num_classes=5), "stage[2,4]")
    other.load_state_dict(torch.load(stored, weights_only=True))
    x = torch.randn(2, *SIZE)
    assert torch.equal(model.eval()(x), other.eval()(x))


def test_channels_last_and_autocast_train() -> None:
    model = placed(build().to(memory_format=torch.channels_last), "all", xvol.BlockSpec.make(gamma=1.0))
    model = model.to(memory_format=torch.channels_last).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(torch.randn(8, *SIZE).to(memory_format=torch.channels_last)).float().square().mean()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_nothing_chosen_changes_nothing() -> None:
    model = build()
    names = [name for name, _ in model.named_modules()]
    assert xvol.convert(model, {}) is model
    assert [name for name, _ in model.named_modules()] == names


@pytest.mark.parametrize(
    ("fqn", "message"),
    [
        ("layer2.0.conv3", "'layer2.0.conv3' is no site of this model: did you mean 'layer2.0.conv"),
        ("conv1", "'conv1' is no site"),
    ],
)
def test_unknown_sites_are_refused_before_anything_is_changed(fqn: str, message: str) -> None:
    model = build()
    with pytest.raises(ValueError, match=message):
        xvol.convert(model, {"layer1.0.conv1": SPEC, fqn: SPEC}, SIZE)
    assert type(model.layer1[0].conv1) is nn.Conv2d


def test_a_branch_that_cannot_stand_in_is_refused_before_anything_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason and the site are named."""
    pssa = xvol.branch_class("pssa")
    refuse = pssa.check.__func__

    def no_stride(cls: type, geometry: object, **options: object) -> None:
        if geometry.stride > 1:  # type: ignore[attr-defined]
            raise ValueError("stride=2 is too fast for it")
        refuse(cls, geometry, **options)

    monkeypatch.setattr(pssa, "check", classmethod(no_stride))
    model = build()
    with pytest.raises(ValueError, match=r"site 'layer2.0.conv1': branch 'pssa' cannot stand in.*stride=2 is too fast"):
        placed(model, "stage[1,2]")
    assert type(model.layer1[0].conv1) is nn.Conv2d


def test_timm_passes_over_a_host_that_is_not_whole() -> None:
    model = timm.create_model("repvgg_a0", num_classes=3).eval()
    keep_from_reparameterising(model, "stages.0.0.conv_kxk.conv")
    deployed = reparameterize_model(model)
    assert hasattr(deployed.stages[0][0], "conv_kxk")
    assert not hasattr(deployed.stages[0][1], "conv_kxk")
