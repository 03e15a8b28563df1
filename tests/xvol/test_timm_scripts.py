"""What timm's train.py, validate.py and benchmark.py ask of a model, in the order in which they ask it."""

from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_data_config
from timm.models import load_checkpoint, model_parameters, resolve_model_input_args, resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver, ModelEmaV3, dispatch_clip_grad, reparameterize_model
from torch import nn

import xvol

NAME = "xvol_resnet18.stage3"


def built_as_train_does(name: str = NAME, **model_kwargs: object) -> nn.Module:
    return timm.create_model(
        name,
        pretrained=False,
        in_chans=3,
        num_classes=5,
        drop_rate=0.0,
        drop_path_rate=0.1,
        drop_block_rate=None,
        global_pool=None,
        bn_momentum=None,
        bn_eps=None,
        scriptable=False,
        checkpoint_path="",
        **model_kwargs,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of training with everything that train.py may switch on, and its checkpoints."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("out")
    model = built_as_train_does(gamma=0.5)
    model.set_grad_checkpointing(enable=True)
    model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    ema = ModelEmaV3(model, decay=0.5, use_warmup=False)
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    model.train()
    for step in (1, 2):
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 3]))
        loss.backward()
        dispatch_clip_grad(model_parameters(model, exclude_head=True), value=0.01, mode="agc")
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model, step=step)
    args = Namespace(model=NAME)
    saver = CheckpointSaver(model, optimizer, args=args, model_ema=ema, checkpoint_dir=folder, recovery_dir=folder)
    saver.save_checkpoint(0, metric=20.0)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    return folder


def built_as_validate_does(checkpoint: Path, use_ema: bool = False) -> nn.Module:
    arguments = resolve_model_input_args(
        NAME,
        {"img_size": None, "in_chans": None, "input_size": [3, 32, 32]},
        pretrained=False,
        num_classes=5,
        global_pool=None,
        scriptable=False,
    )
    model = timm.create_model(**arguments)
    load_checkpoint(model, str(checkpoint), use_ema)
    return model.eval()


def test_an_epoch_leaves_a_checkpoint_that_validates(folder: Path) -> None:
    plain = built_as_validate_does(folder / "last.pth.tar")
    smooth = built_as_validate_does(folder / "last.pth.tar", use_ema=True)
    safe = built_as_validate_does(folder / "model.safetensors")
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(plain(images), safe(images))
        assert not torch.equal(plain(images), smooth(images))
        torch.testing.assert_close(reparameterize_model(plain)(images), plain(images), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, xvol.XVolution2d) for module in reparameterize_model(plain).modules())


def test_training_goes_on(folder: Path) -> None:
    model = built_as_train_does(gamma=0.5)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    assert resume_checkpoint(model, str(folder / "last.pth.tar"), optimizer=optimizer, log_info=False) == 1
    assert optimizer.state_dict()["state"]


def test_layer_decay_finds_every_parameter_of_a_block() -> None:
    model = built_as_train_does()
    groups = create_optimizer_v2(model, opt="sgd", lr=1.0, layer_decay=0.5).param_groups
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    named = dict(model.named_parameters())
    host = scales[id(named["layer3.0.conv1.branches.conv.conv.weight"])]
    assert len(scales) == len(named)
    assert scales[id(named["layer3.0.conv1.branches.pssa.query.weight"])] == host
    assert host < scales[id(named["layer4.0.conv1.weight"])]


def test_weights_of_the_plain_host(tmp_path: Path) -> None:
    plain = timm.create_model("resnet18", num_classes=5).eval()
    torch.save({"state_dict": plain.state_dict()}, tmp_path / "plain.pth")
    model = built_as_validate_does(tmp_path / "plain.pth")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), plain(images))


def test_the_fused_form_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(xvol.fuse(built_as_train_does()).state_dict(), tmp_path / "fused.pth")
    with pytest.raises(RuntimeError, match=r"layer3.0.conv1.*fused \(deploy\) form.*load it into the fused model"):
        built_as_validate_does(tmp_path / "fused.pth")


def test_images_are_prepared_as_for_the_host() -> None:
    model, plain = built_as_train_does(), timm.create_model("resnet18")
    for use_test_size in (False, True):
        ours, theirs = (resolve_data_config({}, model=each, use_test_size=use_test_size) for each in (model, plain))
        assert ours == theirs
    assert resolve_data_config({"input_size": [3, 64, 64]}, model=model)["input_size"] == (3, 64, 64)


def test_benchmark_builds_moves_and_counts() -> None:
    model = timm.create_model(
        NAME,
        num_classes=None,
        in_chans=3,
        global_pool="fast",
        scriptable=False,
        drop_rate=0.0,
        drop_path_rate=None,
        drop_block_rate=None,
    )
    model.to(device="cpu", dtype=torch.bfloat16, memory_format=torch.channels_last)
    assert model.num_classes == 1000
    assert sum(parameter.numel() for parameter in model.parameters()) == xvol.count_params(model)
    with torch.no_grad():
        y = model.eval()(torch.randn(1, 3, 32, 32, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last))
    assert y.shape == (1, 1000)
    assert y.isfinite().all()


def test_features() -> None:
    model = timm.create_model("xvol_resnet18.stage3", features_only=True, out_indices=(2, 3))
    assert model.feature_info.channels() == [128, 256]
    assert [tuple(y.shape) for y in model(torch.randn(1, 3, 64, 64))] == [(1, 128, 8, 8), (1, 256, 4, 4)]
