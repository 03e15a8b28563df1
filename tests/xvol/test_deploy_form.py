"""State dicts of both forms: the same form loads, the other is refused with what to do, and nothing is half loaded."""

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn

import xvol
from xvol.branches.base import Geometry
from xvol.deploy_form import FusedXVolution2d, add_to, as_conv, other_form, refuse_dynamic


def test_a_kernel_of_any_size_keeps_the_geometry() -> None:
    geometry = Geometry(in_chs=4, out_chs=6, kernel_size=3, stride=2, dilation=2, groups=2)
    small, large = (as_conv((torch.randn(6, 2, size, size), torch.randn(6)), geometry) for size in (3, 5))
    x = torch.randn(1, 4, 9, 11)
    assert small(x).shape == large(x).shape == (1, 6, 5, 6)
    assert (small.stride, small.dilation, small.groups) == ((2, 2), (2, 2), 2)


def test_the_parts_are_summed() -> None:
    first, second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1)
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(FusedXVolution2d(first, [second])(x), first(x) + second(x))
    assert torch.equal(FusedXVolution2d(None, [second])(x), second(x))


def test_the_input_is_left_as_it_is() -> None:
    """Where no convolution makes a tensor of its own, the sum does: a branch may give back what it was given."""
    x = torch.randn(1, 3, 4, 4)
    before = x.clone()
    assert torch.equal(FusedXVolution2d(None, [nn.Identity(), nn.Identity()])(x), 2 * before)
    assert torch.equal(x, before)


def test_a_sum_takes_the_memory_of_its_first_term_but_never_narrows() -> None:
    first, wide = torch.ones(2, dtype=torch.float16), torch.full((2,), 1 + 2**-20)
    assert add_to(first, [torch.ones(2, dtype=torch.float16)]) is first
    assert torch.equal(add_to(torch.zeros(2, dtype=torch.float16), [wide]), wide)


def test_what_is_silent_is_not_refused() -> None:
    static, loud, silent = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    nn.init.zeros_(silent.weight)
    nn.init.zeros_(silent.bias)
    refuse_dynamic({"pssa": silent}, static)
    with pytest.raises(ValueError, match=r"images 'gap' gives up to [\d.]+, the static"):
        refuse_dynamic({"pssa": silent, "gap": loud}, static)


def test_a_state_dict_of_the_other_form() -> None:
    assert other_form("deploy", {"a.static.weight": 0}, "a") is None
    assert "the train form" in (other_form("deploy", {"a.branches.conv.conv.weight": 0}, "a") or "")


CONVERTED = {"attention": xvol.BlockSpec.make(gamma=1.0), "static": xvol.BlockSpec.make(["conv"])}
Randomise = Callable[[nn.Module], nn.Module]


def form_of(name: str, kind: str) -> nn.Module:
    """The proxy, plain or with blocks at stage 3, as trained or fused."""
    torch.manual_seed(0)
    model = timm.create_model("xvol_proxy_resnet", num_classes=3)
    if kind == "plain":
        return model
    chosen = xvol.select(xvol.sites(model, (3, 32, 32)), "stage3")
    model = xvol.convert(model, {site.fqn: CONVERTED[name] for site in chosen}, (3, 32, 32))
    return model if kind == "train" else xvol.fuse(model)


@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.parametrize("kind", ["train", "deploy"])
def test_the_same_form_round_trips(name: str, kind: str, randomise: Randomise) -> None:
    one, two = randomise(form_of(name, kind)).eval(), form_of(name, kind).eval()
    result = xvol.load_state_dict(two, one.state_dict())
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(one(x), two(x))


OTHER_FORM = [
    ("attention", "train", "deploy", "fused .deploy. form: folding cannot be undone: load it into the fused model"),
    ("attention", "train", "plain", "is it of the plain backbone, load it before xvol.convert"),
    ("attention", "deploy", "train", "train form: load it into the train form.*before xvol.fuse, and fuse that"),
    ("attention", "deploy", "plain", "build the model with the blocks it was saved with"),
    ("static", "train", "deploy", "one plain convolution.*is it of the fused form, load it into xvol.fuse"),
]


@pytest.mark.parametrize("load", [xvol.load_state_dict, nn.Module.load_state_dict], ids=["xvol", "torch"])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("name", "into", "source", "message"), OTHER_FORM)
def test_the_other_form_is_refused_with_what_to_do(
    name: str, into: str, source: str, message: str, strict: bool, load: Callable[..., object]
) -> None:
    """By torch's own method too; also with strict=False, which would otherwise load nothing and say nothing."""
    model, state = form_of(name, into), form_of(name, source).state_dict()
    with pytest.raises(RuntimeError, match=r"'layer3\.0\.conv1'.*" + message):
        load(model, state, strict=strict)


@pytest.mark.parametrize(
    ("name", "into", "source", "message"),
    [
        ("static", "deploy", "train", "a Conv2d, the state dict holds an X-volution block in the train form"),
        ("attention", "plain", "train", "is the model plain, after xvol.convert"),
        ("attention", "plain", "deploy", "xvol.convert, then xvol.fuse"),
    ],
)
def test_a_plain_convolution_is_told_too_and_nothing_is_changed(
    name: str, into: str, source: str, message: str
) -> None:
    model = form_of(name, into)
    before = copy.deepcopy(model.state_dict())
    state = {key: value + 1 for key, value in form_of(name, source).state_dict().items()}
    with pytest.raises(RuntimeError, match=message):
        xvol.load_state_dict(model, state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("spec", CONVERTED.values(), ids=str)
def test_blocks_alone(spec: xvol.BlockSpec) -> None:
    block = xvol.XVolution2d(4, 4, spec=spec)
    fused = block.fuse()
    xvol.load_state_dict(block, block.state_dict())
    xvol.load_state_dict(fused, fused.state_dict())
    for model, state in ((block, fused.state_dict()), (fused, block.state_dict())):
        with pytest.raises(RuntimeError, match="at 'the top' stands"):
            xvol.load_state_dict(model, state)


def test_other_faults_stay_torchs() -> None:
    model = form_of("attention", "train")
    state = model.state_dict()
    del state["fc.bias"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"fc\.bias"'):
        xvol.load_state_dict(model, state)
    assert xvol.load_state_dict(model, state, strict=False).missing_keys == ["fc.bias"]
