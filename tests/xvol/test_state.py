"""State dicts of both forms: the same form loads, the other is refused with what to do, and nothing is half loaded."""

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn

import xvol

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
