"""What timm's train.py, validate.py and benchmark.py ask of a model, in the order in which they ask it."""

import copy
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_data_config
from timm.layers import convert_splitbn_model
from timm.models import load_checkpoint, model_parameters, resolve_model_input_args, resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask, load_task_ema_checkpoint, resume_task_checkpoint
from timm.utils import CheckpointSaver, ModelEmaV3, dispatch_clip_grad, reparameterize_model
from torch import nn

import xvol

NAME = "xvol_resnet18.stage3"


def built_as_train_does(name: str = NAME, drop_path_rate: float = 0.1, **model_kwargs: object) -> nn.Module:
    return timm.create_model(
        name,
        pretrained=False,
        in_chans=3,
        num_classes=5,
        drop_rate=0.0,
        drop_path_rate=drop_path_rate,
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


@pytest.mark.slow
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


def test_pretrained_weights_from_a_file(tmp_path: Path) -> None:
    """train.py's --pretrained-path, with another number of classes than the file's."""
    plain = timm.create_model("resnet18", num_classes=7).eval()
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    overlay = {"file": str(tmp_path / "plain.pth"), "num_classes": -1}
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=5).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.forward_features(images), plain.forward_features(images))
        assert model(images).shape == (2, 5)


def test_a_task_trains_and_goes_on(tmp_path: Path) -> None:
    """How train.py has done it since timm.task: the task holds the model and its moving average."""

    def started() -> tuple[ClassificationTask, torch.optim.Optimizer]:
        task = ClassificationTask(model=built_as_train_does(gamma=0.5), device=torch.device("cpu"), verbose=False)
        return task, create_optimizer_v2(task.get_trainable_module(), opt="sgd", lr=0.01, momentum=0.9)

    task, optimizer = started()
    task.setup_ema(decay=0.5)
    task.get_trainable_module().train()
    for step in (1, 2):  # the average of the first is the model itself
        task(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]))["loss"].backward()
        optimizer.step()
        task.update_ema(step=step)
    saver = CheckpointSaver(
        task.get_trainable_module(), optimizer, args=Namespace(model=NAME), checkpoint_dir=tmp_path, task=task
    )
    saver.save_checkpoint(0, metric=20.0)

    again, optimizer = started()
    assert resume_task_checkpoint(again, str(tmp_path / "last.pth.tar"), optimizer=optimizer, log_info=False) == 1
    again.setup_ema(decay=0.5)
    load_task_ema_checkpoint(again, str(tmp_path / "last.pth.tar"))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        plain, smooth = (task.get_eval_model(ema=ema).eval()(images) for ema in (False, True))
        assert torch.equal(again.get_eval_model().eval()(images), plain)
        assert torch.equal(again.get_eval_model(ema=True).eval()(images), smooth)
        assert not torch.equal(plain, smooth)


def test_split_norms_keep_to_their_part_of_the_batch() -> None:
    """train.py's --split-bn: the norms of the blocks are replaced with the others."""
    model = built_as_train_does(gamma=1.0, drop_path_rate=0.0)
    split = convert_splitbn_model(copy.deepcopy(model), 2).train()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        parts = [copy.deepcopy(model).train()(part) for part in images.chunk(2)]
        torch.testing.assert_close(split(images), torch.cat(parts), rtol=1e-5, atol=1e-6)


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


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_a_profiler_may_trace_it() -> None:
    """What fvcore does for benchmark.py's --bench profile; under a trace the numbers in a shape are tensors."""
    model = built_as_train_does(branches=["conv", "pssa", "pssa_inner", "gap_query"], gamma=1.0).eval()
    images = torch.randn(1, 3, 32, 32)
    traced = torch.jit.trace(model, images, check_trace=False)
    with torch.no_grad():
        torch.testing.assert_close(traced(images), model(images))


def test_features() -> None:
    model = timm.create_model("xvol_resnet18.stage3", features_only=True, out_indices=(2, 3))
    assert model.feature_info.channels() == [128, 256]
    assert [tuple(y.shape) for y in model(torch.randn(1, 3, 64, 64))] == [(1, 128, 8, 8), (1, 256, 4, 4)]
