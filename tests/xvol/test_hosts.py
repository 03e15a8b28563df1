"""What blocks stand in for: kernels of hosts, and the norms that a block takes over, frozen ones of detectors among them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, freeze_batch_norm_2d
from timm.layers.norm_act import FrozenBatchNorm2d, FrozenBatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import xvol
import xvol.torchvision_ops
from xvol.fold import ScaleShift2d
from xvol.hosts import CONVS, kernel_of, split_norm

SIZE = (3, 64, 64)


def noisy(model: nn.Module) -> nn.Module:
    """With statistics and affine parts of a network that was trained."""
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith(("running_var", "running_mean")) or ("bn" in name and name.endswith(("weight", "bias"))):
            value.copy_(torch.rand_like(value) + 0.5)
    return model


def feature_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return list(tree_leaves(model(images)))


def chosen(
    model: nn.Module, text: str, branches: tuple[str, ...] = ("conv", "pssa"), **more: object
) -> dict[str, xvol.BlockSpec]:
    return {
        site.fqn: xvol.BlockSpec.make(list(branches), **more) for site in xvol.select(xvol.sites(model, SIZE), text)
    }


@pytest.fixture(params=["torchvision, eps 0", "timm"])
def body(request: pytest.FixtureRequest) -> nn.Module:
    if request.param == "timm":
        return noisy(freeze_batch_norm_2d(timm.create_model("resnet26", features_only=True)))
    made = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=5).body
    for norm in made.modules():
        if isinstance(norm, FrozenBatchNorm2d):
            norm.eps = 0.0  # as torchvision's weights of COCO have it
    return noisy(made)


@pytest.mark.parametrize("training", [False, True])
def test_a_frozen_body_computes_the_same_after_conversion_and_stays_frozen(body: nn.Module, training: bool) -> None:
    images = torch.randn(2, *SIZE)
    before = feature_maps(body.train(training), images)
    buffers = {name for name, _ in body.named_buffers()}
    specs = chosen(body, "stage3.*")
    assert specs
    xvol.convert(body, specs, input_size=SIZE)
    after = feature_maps(body, images)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    blocks = [module for module in body.modules() if isinstance(module, xvol.XVolution2d)]
    assert len(blocks) == len(specs)
    for block in blocks:
        assert type(block.norms["conv"]) is FrozenBatchNorm2d
        assert not list(block.norms["conv"].parameters())
        assert block.norms["pssa"].eps == 1e-5
    body.train()
    feature_maps(body, images + 1)  # a forward pass in training mode moves no statistics of what is frozen
    kept = {name: value for name, value in body.named_buffers() if name in buffers}
    assert all(torch.equal(one, other) for one, other in zip(before, feature_maps(body.eval(), images), strict=True))
    assert kept


def test_a_frozen_body_fuses_to_convolutions_without_norms(body: nn.Module) -> None:
    xvol.convert(body, chosen(body, "stage3.*", gamma=0.5), input_size=SIZE)
    fused = xvol.fuse(body, SIZE)
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in fused.modules())
    images = torch.randn(2, *SIZE)
    largest = max(float(each.abs().max()) for each in feature_maps(body.eval(), images))
    error = xvol.fuse_error(
        body.double(), xvol.fuse(body.double(), SIZE), images.double()
    )  # of lists and dicts of maps
    assert 0 <= error <= 1e-12 * largest
    report = xvol.fuse_report(body, images)
    assert 0 <= report.error_float64 <= 1e-12 * largest
    assert report.largest == pytest.approx(largest)


@pytest.mark.parametrize("sync", [False, True])
def test_norms_beside_frozen_ones_are_a_scale_and_shift_or_of_all_gpus(sync: bool) -> None:
    model = noisy(freeze_batch_norm_2d(timm.create_model("resnet26", features_only=True)))
    options = {} if sync else {"pssa": {"norm": "none"}}
    xvol.convert(model, chosen(model, "stage3.*", gamma=0.5, options=options), input_size=SIZE)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model) if sync else model
    blocks = [module for module in model.modules() if isinstance(module, xvol.XVolution2d)]
    assert {type(block.norms["conv"]) for block in blocks} == {FrozenBatchNorm2d}
    assert {type(block.norms["pssa"]) for block in blocks} == {nn.SyncBatchNorm if sync else ScaleShift2d}
    model.double().eval()
    assert xvol.fuse_error(model, xvol.fuse(model), torch.randn(1, *SIZE).double()) < 1e-9


def detector() -> FasterRCNN:
    """With frozen norms and names as torchvision's detectors have them; small, and with random weights."""
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    few = {"rpn_post_nms_top_n_train": 40, "rpn_post_nms_top_n_test": 40, "box_batch_size_per_image": 16}
    return FasterRCNN(body, 4, min_size=64, max_size=96, box_score_thresh=0.0, **few)


def outcomes(model: nn.Module) -> list[Tensor]:
    """Losses of a step and detections, of fixed pictures under a fixed seed."""
    xvol.torchvision_ops.install()
    torch.manual_seed(1)
    pictures = [torch.rand(3, 64, 80), torch.rand(3, 70, 64)]
    target = {"boxes": torch.tensor([[10.0, 8, 50, 40]]), "labels": torch.tensor([2])}
    with torch.no_grad():
        losses = model.train()(pictures, [target] * 2)
        return [*tree_leaves(losses), *tree_leaves(model.eval()(pictures))]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_a_detector_trains_and_predicts_the_same_with_a_converted_body() -> None:
    torch.manual_seed(0)
    model = detector()
    noisy(model.backbone.body)
    before = outcomes(model)
    xvol.convert(model.backbone.body, chosen(model.backbone.body, "stage3.*"), input_size=SIZE)
    assert any(isinstance(module, xvol.XVolution2d) for module in model.modules())
    assert len(before[-1])
    assert same(outcomes(model), before)


def test_a_detectors_own_state_dict_loads_before_or_after_conversion() -> None:
    models = [detector() for _ in range(3)]
    noisy(models[0].backbone.body)
    state = models[0].state_dict()
    assert "backbone.body.layer3.0.conv2.weight" in state  # as weights of COCO have it
    xvol.load_state_dict(models[1], state)
    for model in models[1:]:
        torch.manual_seed(3)
        body = model.backbone.body
        xvol.convert(body, chosen(body, "stage3.*", gamma=0.5), input_size=SIZE)
    with pytest.raises(RuntimeError, match=r"load it before xvol\.convert"):
        xvol.load_state_dict(models[2], state)
    names = xvol.plain_names(models[2])
    assert set(names.values()) == set(state)
    missing = models[2].load_state_dict({ours: state[theirs] for ours, theirs in names.items()}, strict=False)
    assert not missing.unexpected_keys
    assert all(".branches.pssa." in key or ".norms.pssa." in key for key in missing.missing_keys)
    assert same(outcomes(models[1]), outcomes(models[2]))


def test_weights_of_a_frozen_body_load_before_or_after_conversion() -> None:
    made = [freeze_batch_norm_2d(timm.create_model("resnet26", features_only=True)) for _ in range(2)]
    state = noisy(copy.deepcopy(made[0])).state_dict()
    made[0].load_state_dict(state)
    for model in made:
        torch.manual_seed(3)
        xvol.convert(model, chosen(model, "stage3.*", gamma=0.5), input_size=SIZE)
    names = xvol.plain_names(made[1])
    made[1].load_state_dict({ours: state[theirs] for ours, theirs in names.items()}, strict=False)
    assert xvol.fuse_error(*made, torch.randn(1, *SIZE)) == 0


def test_a_kernel_of_another_size_keeps_a_norm_of_its_own() -> None:
    model = freeze_batch_norm_2d(timm.create_model("resnet26", features_only=True))
    spec = chosen(model, "stage3.*", options={"conv": {"kernel": 5}})
    xvol.convert(model, spec, input_size=SIZE)
    block = next(module for module in model.modules() if isinstance(module, xvol.XVolution2d))
    assert type(block.norms["conv"]) is nn.BatchNorm2d


def test_a_plain_norm_leaves_nothing() -> None:
    norm = nn.BatchNorm2d(4).eval()
    plain, rest = split_norm(norm)
    assert plain is norm
    assert type(rest) is nn.Identity
    assert not rest.training


def test_the_two_parts_are_the_norm(randomise: Callable[[nn.Module], nn.Module]) -> None:
    norm = randomise(BatchNormAct2d(4, eps=1e-3, act_layer=nn.SiLU)).eval()
    plain, rest = split_norm(norm)
    x = torch.randn(2, 4, 5, 5)
    assert plain.weight is norm.weight
    assert plain.running_mean is norm.running_mean
    assert torch.equal(rest(plain(x)), norm(x))


def test_norms_with_an_activation_are_split_frozen_or_not() -> None:
    images = torch.randn(2, 6, 5, 5)
    norm = noisy(nn.Sequential(BatchNormAct2d(6, act_layer=nn.SiLU)))
    frozen = freeze_batch_norm_2d(copy.deepcopy(norm))[0]
    assert type(frozen) is FrozenBatchNormAct2d
    plain, rest = split_norm(frozen)
    assert type(plain) is FrozenBatchNorm2d
    assert torch.equal(rest(plain(images)), frozen(images))
    assert torch.allclose(frozen(images), norm.eval()(images), atol=1e-6)


def test_a_model_with_activations_in_its_frozen_norms_takes_blocks() -> None:
    model = noisy(freeze_batch_norm_2d(timm.create_model("efficientnet_lite0", num_classes=4)))
    images = torch.randn(2, *SIZE)
    before = feature_maps(model.eval(), images)
    xvol.convert(model, chosen(model, "stage3.last"), input_size=SIZE)
    assert torch.equal(before[0], feature_maps(model, images)[0])


def test_a_backbone_with_a_pyramid_says_what_to_pass() -> None:
    model = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    with pytest.raises(ValueError, match=r"pass its `\.body`, a IntermediateLayerGetter"):
        xvol.sites(model)


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize("groups", [1, 3])
def test_the_kernel_of_a_host_is_what_it_convolves_with(kind: type[nn.Conv2d], groups: int) -> None:
    conv = kind(6, 9, 5, padding=4, dilation=2, groups=groups, bias=True).double()
    weight, bias = kernel_of(conv)
    x = torch.randn(2, 6, 7, 8, dtype=torch.float64)
    torch.testing.assert_close(functional.conv2d(x, weight, bias, 1, 4, 2, groups), conv(x), rtol=1e-12, atol=1e-12)
    strided = kind(6, 9, 3, stride=2, groups=groups, bias=False).double()
    assert kernel_of(strided)[0].shape == strided.weight.shape
    assert kernel_of(strided)[1] is None
