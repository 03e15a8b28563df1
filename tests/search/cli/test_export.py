"""`xvol-export`: what it writes is the trial's network, and every fault is one message."""

from __future__ import annotations

import copy
import importlib.util
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import xvol
from search.channel import Channel, opened
from search.cli.export import main
from search.config import Config, config_folder, typed
from search.data.images import DataInfo
from search.ledger.result import read_result, write_result
from search.tasks.detector import build_detector
from search.tasks.model import build
from search.trial.deploy import export_trial
from search.trial.run import run_trial
from search.trial.state import load_checkpoint

SETTINGS = {
    "placement": {"policy": "stage3"},
    "branch": {"gamma": 0.5, "options": {"pssa": {"embed_ratio": 0.5}}},
    "data": {"train_size": 128, "val_size": 64, "batch_size": 64},
    "train": {"epochs": 1, "lr": 0.1, "ema_decay": None},
    "measure": {"latency_repeats": 0},
    "tracker": {"mode": "disabled", "entity": "${oc.env:XVOL_NO_SUCH_NAME}"},
}
LIGHT_HELP = """
import sys
from search.cli.export import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"torch", "timm", "pandas", "hydra"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A final trial on a few digits, its config written as the application does it."""
    torch.set_num_threads(1)
    study = tmp_path_factory.mktemp("runs") / "demo"
    folder = study / "final" / "0003-s1000"
    (folder / ".hydra").mkdir(parents=True)
    written = OmegaConf.merge(OmegaConf.structured(Config), SETTINGS)
    OmegaConf.save(OmegaConf.create(OmegaConf.to_container(written)), folder / ".hydra" / "config.yaml")
    composed = OmegaConf.merge(written, {"tracker": {"entity": None}})
    with opened(Channel(study="demo", phase="final", number=3, study_dir=str(study))):
        run_trial(composed, folder)  # type: ignore[arg-type]
    return folder


def written_and_run(folder: Path, settings: dict[str, object]) -> Path:
    """A single trial of these settings, its config written as the application does it."""
    (folder / ".hydra").mkdir(parents=True)
    written = OmegaConf.merge(OmegaConf.structured(Config), SETTINGS, settings, {"tracker": {"entity": None}})
    OmegaConf.save(OmegaConf.create(OmegaConf.to_container(written)), folder / ".hydra" / "config.yaml")
    with opened(Channel(study="demo", phase="single", number=0, study_dir=str(folder.parent))):
        run_trial(written, folder)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def trial(trained: Path, tmp_path: Path) -> Path:
    """The trained trial again, to be spoilt."""
    return shutil.copytree(trained, tmp_path / "trial")


@pytest.fixture(scope="module")
def network(trained: Path) -> torch.nn.Module:
    """The network as the trial evaluated it."""
    config = typed(OmegaConf.merge(OmegaConf.structured(Config), SETTINGS, {"tracker": {"entity": None}}))
    model, _ = build(config, 1, 10, 16)
    model.load_state_dict(torch.load(trained / "checkpoint.pt", weights_only=True))
    return model.eval()


@torch.no_grad()
def check(run: Callable[[torch.Tensor], torch.Tensor], network: torch.nn.Module, *sizes: tuple[int, ...]) -> None:
    for size in sizes:
        images = torch.randn(*size)
        expected = network(images)
        assert (run(images) - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime: pip install 'xvol[onnx]'",
)
def test_onnx(trained: Path, network: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime  # here: half a second for the slow tests alone

    out = tmp_path / "model.onnx"
    assert main([str(trained), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "stage3: conv+pssa" in said
    assert "2 blocks fused, 0 of them to a plain convolution" in said
    assert "logits in ONNX Runtime differ by" in said
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    check(
        lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0]),
        network,
        *((2, 1, 16, 16), (3, 1, 24, 20)),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.slow
def test_pt2(trained: Path, network: torch.nn.Module, tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    assert main([str(trained), "--out", str(out)]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about torch
        program = torch.export.load(out).module()
    check(program, network, (2, 1, 16, 16), (5, 1, 23, 30))


@pytest.mark.slow
def test_pt2_of_one_size(trained: Path, network: torch.nn.Module, tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    assert main([str(trained), "--out", str(out), "--fixed-size"]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(out).module()
        check(program, network, (2, 1, 16, 16), (5, 1, 16, 16))
        with pytest.raises((AssertionError, RuntimeError)):
            program(torch.randn(2, 1, 20, 16))


def test_pth_is_the_state_dict_of_the_fused_network(trained: Path, network: torch.nn.Module, tmp_path: Path) -> None:
    out = tmp_path / "model.pth"
    assert main([str(trained), "--out", str(out)]) == 0
    fused = xvol.fuse(network, (1, 16, 16))
    for parameter in fused.parameters():
        torch.nn.init.zeros_(parameter)
    xvol.load_state_dict(fused, torch.load(out, weights_only=True))
    check(fused, network, (2, 1, 16, 16))


@pytest.mark.slow
def test_the_train_form(trained: Path, network: torch.nn.Module, tmp_path: Path) -> None:
    """Its norms and branches are there, so training can go on from it."""
    assert main([str(trained), "--out", str(tmp_path / "model.pth"), "--form", "train"]) == 0
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    expected = network.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    assert main([str(trained), "--out", str(tmp_path / "model.pt2"), "--form", "train"]) == 0
    check(torch.export.load(tmp_path / "model.pt2").module(), network, (2, 1, 16, 16), (3, 1, 24, 20))


def test_an_unknown_form(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="form='fused' must be one of deploy, train"):
        export_trial(trained, tmp_path / "model.pth", form="fused")


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime: pip install 'xvol[onnx]'",
)
def test_weights_too_large_for_one_onnx_file(
    trained: Path,
    network: torch.nn.Module,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit is lowered: 2 GiB of weights would take minutes."""
    import onnxruntime  # here: half a second for the slow tests alone

    monkeypatch.setattr("search.trial.deploy.MOST_INLINE_BYTES", 1000)
    out = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        assert main([str(trained), "--out", str(out)]) == 0
    assert f"written: {out} with its weights in {out}.data, which has to stay beside it" in capsys.readouterr().out
    data = tmp_path / "model.onnx.data"
    assert data.stat().st_size > out.stat().st_size / 2
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    check(lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), network, (2, 1, 16, 16))
    data.unlink()
    with pytest.raises(Exception, match=r"model\.onnx\.data"):
        onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])


def test_a_trial_without_weights(trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trial / "checkpoint.pt").unlink()
    faults(trial, tmp_path / "m.pth", r"checkpoint.pt is missing: the trial is of phase 'final' and kept none", capsys)
    result = read_result(trial / "result.json")
    result.status, result.reason = "failed", "out of memory"
    write_result(trial, result)
    faults(trial, tmp_path / "m.pth", "the trial ended as 'failed' (out of memory)", capsys)
    (trial / "result.json").unlink()
    faults(trial, tmp_path / "m.pth", "the trial has not finished", capsys)


def test_a_folder_that_is_no_trial(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = trained.parents[1]
    faults(study, tmp_path / "m.pth", f"{study} is no folder of a trial", capsys, f"below it are {trained}")
    faults(tmp_path / "nothing", tmp_path / "m.pth", "is no folder of a trial", capsys)


def test_an_output_that_cannot_be(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults(trained, tmp_path / "m.bin", "the suffix says the format, one of .onnx, .pt2, .pth", capsys)
    faults(trained, tmp_path / "no" / "m.pth", "does not exist; make it first", capsys)


def test_a_config_that_was_changed(trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trial / ".hydra" / "config.yaml"
    whole = path.read_text()
    path.write_text(whole.replace("policy: stage3", "policy: stage2"))
    faults(trial, tmp_path / "m.pth", "the trial trained", capsys, "the config was changed")
    (trial / "result.json").unlink()
    faults(trial, tmp_path / "m.pth", "the weights are not of the network", capsys, "'layer2.0.conv1'")
    path.write_text(whole + "  - :")
    faults(trial, tmp_path / "m.pth", "not a readable config", capsys)
    path.write_text("- 3")
    faults(trial, tmp_path / "m.pth", "not the config of a trial", capsys)


def test_weights_of_another_program(trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.zeros(3)}, trial / "checkpoint.pt")
    faults(trial, tmp_path / "m.pth", "the weights lack fc.weight", capsys)
    (trial / "checkpoint.pt").write_bytes(b"torn")
    faults(trial, tmp_path / "m.pth", "cannot read it as a state dict", capsys, torch.__version__)


def test_another_torch_is_told(trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = read_result(trial / "result.json")
    result.provenance["versions"]["torch"] = "2.6.0"
    write_result(trial, result)
    assert main([str(trial), "--out", str(tmp_path / "m.pth")]) == 0
    assert f"trained with torch 2.6.0, exported with torch {torch.__version__}" in capsys.readouterr().out


def test_without_onnx_it_says_what_to_install(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    faults(trained, tmp_path / "m.onnx", "needs onnx and onnxscript: pip install 'xvol[onnx]'", capsys)


def test_a_trial_that_went_on_from_another(tmp_path: Path) -> None:
    """Its gamma by "auto" is that of a trained network, which its own config alone tells."""
    plain = written_and_run(tmp_path / "plain", {"placement": {"policy": "none"}, "checkpoint": "always"})
    start = {"kind": "shared", "root": str(plain)}
    grafted = {"start": start, "branch": {"gamma": "auto"}, "train": {"epochs": 0}, "checkpoint": "always"}
    folder = written_and_run(tmp_path / "grafted", grafted)
    shutil.rmtree(plain)  # the trial's own weights are all that is needed
    export_trial(folder, tmp_path / "network.pth", form="train")
    state = torch.load(tmp_path / "network.pth", weights_only=True)
    assert all(torch.equal(state[name], value) for name, value in load_checkpoint(folder / "checkpoint.pt").items())


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial of instance segmentation on eight pictures."""
    root = tmp_path_factory.mktemp("detector")
    data = {"name": "digit_scenes", "root": str(root / "data"), "image_size": 64, "train_size": 8, "val_size": 4}
    settings = {
        "task": "instance_segmentation",
        "detector": OmegaConf.load(config_folder() / "detector/small.yaml"),
        "data": {**data, "test_size": 4, "batch_size": 4},
        "train": {"opt": "adamw", "lr": 0.001, "clip_grad": 5},
        "objectives": ["val_mask_ap"],
        "checkpoint": "always",
    }
    return written_and_run(root / "trial", settings)


@torch.no_grad()
def test_a_detectors_state_dict_is_whole_and_its_backbone_fused(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(detector), "--out", str(tmp_path / "fused.pth")]) == 0
    assert "the whole detector" in capsys.readouterr().out
    assert main([str(detector), "--out", str(tmp_path / "model.pth"), "--form", "train"]) == 0
    state, kept = (torch.load(path, weights_only=True) for path in (tmp_path / "model.pth", detector / "checkpoint.pt"))
    assert state.keys() == kept.keys()
    assert all(torch.equal(value, kept[name]) for name, value in state.items())
    model = rebuilt(detector)
    fused = copy.deepcopy(model)
    fused.backbone = xvol.fuse(fused.backbone, (3, 64, 64))
    for parameter in fused.parameters():
        torch.nn.init.zeros_(parameter)
    xvol.load_state_dict(fused, torch.load(tmp_path / "fused.pth", weights_only=True))
    images = torch.rand(2, 3, 64, 64)
    assert xvol.surgery.fuse_error(model.backbone, fused.backbone, images) < 1e-4
    assert torch.equal(fused.roi_heads.box_head.fc6.weight, model.roi_heads.box_head.fc6.weight)


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime: pip install 'xvol[onnx]'",
)
@torch.no_grad()
def test_a_detectors_backbone_and_pyramid(detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime  # here: half a second for the slow tests alone

    for suffix in ("pt2", "onnx"):
        assert main([str(detector), "--out", str(tmp_path / f"model.{suffix}")]) == 0
        said = capsys.readouterr().out
        assert "maps " in said
        assert "the heads are not in it" in said
    pyramid = rebuilt(detector).backbone
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about torch
        program = torch.export.load(tmp_path / "model.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for size in ((2, 3, 64, 64), (3, 3, 96, 70)):
        images = torch.randn(*size)
        expected, found = pyramid(images), program(images)
        names = [f"map_{name}" for name in expected]
        in_onnx = map(torch.from_numpy, session.run(names, {"images": images.numpy()}))
        assert list(found) == list(expected)
        for one, same, other in zip(expected.values(), found.values(), in_onnx, strict=True):
            assert (same - one).abs().max() <= 1e-5 * max(1.0, float(one.abs().max()))
            assert (other - one).abs().max() <= 1e-5 * max(1.0, float(one.abs().max()))


def test_weights_without_a_detectors_head(detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt = shutil.copytree(detector, tmp_path / "trial")
    torch.save({"weight": torch.zeros(3)}, spoilt / "checkpoint.pt")
    faults(spoilt, tmp_path / "m.pth", "the weights lack roi_heads.box_predictor.cls_score.weight", capsys)


def rebuilt(folder: Path) -> Any:
    """The detector of a trial, in eval mode."""
    config = typed(OmegaConf.load(folder / ".hydra" / "config.yaml"))
    classes = tuple(map(str, range(10)))
    info = DataInfo(classes, 3, 64, (0.5,) * 3, (0.2,) * 3, source="", digest="")
    model, _ = build_detector(config, info, masks=True)
    model.load_state_dict(load_checkpoint(folder / "checkpoint.pt"))
    return model.eval()


def faults(trial: Path, out: Path, message: str, capsys: pytest.CaptureFixture[str], *more: str) -> None:
    before = sorted(out.parent.iterdir()) if out.parent.is_dir() else None
    assert main([str(trial), "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("xvol-export: ")
    for part in (message, *more):
        assert part in said.err
    if before is not None:
        assert sorted(out.parent.iterdir()) == before


def test_help_waits_for_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT_HELP], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "checkpoint=final" in done.stdout
