"""Blocks and whole models leave Python: torch.export, ONNX and torch.compile, as trained and fused, at free sizes."""

import copy
import importlib.util
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import xvol
from xvol.branches.base import Geometry

Randomise = Callable[[nn.Module], nn.Module]
FREE = torch.export.Dim.DYNAMIC
ANY_SIZE = ({0: FREE, 2: FREE, 3: FREE},)
ANY_NUMBER = ({0: FREE},)
SIZE_BOUND = ("bottleneck_attn", "halo")  # timm's layers: position tables of one size, windows counted in Python
GEOMETRIES = [
    (8, {"out_chs": 16, "stride": 2, "groups": 2}),
    (8, {"out_chs": 8, "stride": 2, "groups": 2}),
    (8, {"out_chs": 16, "stride": 2}),
    (8, {"out_chs": 8}),
]
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime: pip install 'xvol[onnx]'",
)
needs_compiler = pytest.mark.skipif(
    sys.platform == "win32" or not any(map(shutil.which, ("g++", "clang++", "c++"))),
    reason="torch.compile's default backend needs a C++ compiler on the path",
)
# the paper's own form in both; a fused block runs the same branch without its norm, so the others as trained only
EACH = [*((name, "train") for name in xvol.branch_names()), ("pssa", "deploy")]
both_forms = pytest.mark.parametrize("form", ["train", "deploy"])


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    """Torch warns about itself while it traces; what it compiled for one test is not another's."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield
    torch._dynamo.reset()


def block_in(form: str, name: str, randomise: Randomise, **options: object) -> nn.Module:
    """A block with a conv branch and `name`, in the hardest geometry that the branch takes."""
    spec = xvol.BlockSpec.make(sorted({"conv", name}), {name: options} if options else None)
    in_chs, shape = next(geometry for geometry in GEOMETRIES if takes(name, *geometry))
    block = randomise(xvol.XVolution2d(in_chs, spec=spec, **shape)).eval()
    assert isinstance(block, xvol.XVolution2d)
    return block if form == "train" else block.fuse()


def takes(name: str, in_chs: int, shape: dict[str, int]) -> bool:
    try:
        xvol.branch_class(name).check(Geometry(in_chs=in_chs, **shape), **xvol.branch_options(name))
    except ValueError:
        return False
    return True


@torch.no_grad()
def check(run: Callable[[Tensor], Tensor], module: nn.Module, *sizes: tuple[int, ...]) -> None:
    for size in sizes:
        x = torch.randn(*size)
        y = module(x)
        assert (run(x) - y).abs().max() <= 1e-5 * max(1.0, float(y.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), EACH)
def test_export_of_any_size(name: str, form: str, randomise: Randomise) -> None:
    block = block_in(form, name, randomise)
    shapes, other = (ANY_NUMBER, (3, 8, 9, 10)) if name in SIZE_BOUND else (ANY_SIZE, (3, 8, 16, 7))
    program = torch.export.export(block, (torch.randn(2, 8, 9, 10),), dynamic_shapes=shapes)
    check(program.module(), block, (2, 8, 9, 10), other)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), EACH)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_compiles_to_one_graph(name: str, form: str, training: bool, randomise: Randomise) -> None:
    """`fullgraph=True` raises at the first graph break; the backend runs the graph as it was traced."""
    block = block_in(form, name, randomise).train(training)
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True, backend="eager")
    x = torch.randn(2, 8, 8, 8, requires_grad=True)
    y, expected = compiled(x), block(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each.square().mean(), x)[0] for each in (y, expected)))


VARIANTS = [
    {"rank": 2, "q_bias": True},
    {"border": "replicate", "directions": 4},
    {"shift": 2, "directions": 9, "q_bias": True, "embed_ratio": 0.5},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@both_forms
def test_variants_of_pssa_export_and_compile(options: dict[str, object], form: str, randomise: Randomise) -> None:
    block = block_in(form, "pssa", randomise, **options)
    program = torch.export.export(block, (torch.randn(2, 8, 9, 10),), dynamic_shapes=ANY_SIZE)
    check(program.module(), block, (3, 8, 16, 7))
    check(torch.compile(block, fullgraph=True, backend="eager"), block, (2, 8, 8, 8))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_default_block_through_autograd_of_the_compiler(training: bool, randomise: Randomise) -> None:
    """Forward and backward graphs, as every compiling backend gets them."""
    block = block_in("train", "pssa", randomise).train(training)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 8, 8, 8)
    compiled(x).square().mean().backward()
    gradients = [parameter.grad.clone() for parameter in block.parameters()]
    block.zero_grad()
    block(x).square().mean().backward()
    for parameter, gradient in zip(block.parameters(), gradients, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)


def whole_model(form: str, randomise: Randomise) -> nn.Module:
    model = timm.create_model("xvol_proxy_resnet", num_classes=5)
    chosen = xvol.select(xvol.sites(model, (3, 32, 32)), "stage[2-3]")
    spec = xvol.BlockSpec.make(options={"pssa": {"embed_ratio": 0.25}}, gamma=1.0)
    model = xvol.convert(model, {site.fqn: spec for site in chosen}, (3, 32, 32))
    model = randomise(model).eval()
    return model if form == "train" else xvol.fuse(model, (3, 32, 32))


@pytest.mark.slow
@both_forms
def test_export_of_a_whole_model(form: str, tmp_path: Path, randomise: Randomise) -> None:
    """Of one size, of any size, and from disk."""
    model = whole_model(form, randomise)
    images = torch.randn(2, 3, 64, 64)
    fixed = torch.export.export(model, (images,))
    check(fixed.module(), model, (2, 3, 64, 64))
    with pytest.raises((AssertionError, RuntimeError)):
        fixed.module()(images[:, :, :40])
    torch.export.save(torch.export.export(model, (images,), dynamic_shapes=ANY_SIZE), tmp_path / "model.pt2")
    check(torch.export.load(tmp_path / "model.pt2").module(), model, (2, 3, 64, 64), (1, 3, 40, 57))


@pytest.mark.slow
@needs_onnx
def test_onnx_of_a_whole_model(tmp_path: Path, randomise: Randomise) -> None:
    check_onnx(whole_model("deploy", randomise), torch.randn(2, 3, 32, 32), tmp_path, (2, 3, 32, 32), (3, 3, 24, 41))


class Parallel(nn.Module):
    """Blocks side by side: one export for all of them, and an output of its own for each."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([block(x).flatten(1) for block in self.blocks], 1)


@pytest.mark.slow
@needs_onnx
def test_onnx_of_every_branch(tmp_path: Path, randomise: Randomise) -> None:
    """At two sizes: every branch as deployed, and the paper's as trained."""
    fused = [block_in("deploy", name, randomise) for name in xvol.branch_names() if name != "bottleneck_attn"]
    module = Parallel(block_in("train", "pssa", randomise), *fused).eval()
    check_onnx(module, torch.randn(2, 8, 9, 10), tmp_path, (2, 8, 9, 10), (3, 8, 16, 7))


@pytest.mark.slow
@needs_onnx
def test_onnx_of_a_branch_bound_to_a_size(tmp_path: Path, randomise: Randomise) -> None:
    """At two numbers of images."""
    module = block_in("deploy", "bottleneck_attn", randomise)
    check_onnx(module, torch.randn(2, 8, 9, 10), tmp_path, (2, 8, 9, 10), (3, 8, 9, 10), shapes=ANY_NUMBER)


def inductor_agrees(module: nn.Module, x: Tensor) -> None:
    """Machine code, forward and backward, in one graph each. Compiling takes seconds, so few modules are."""
    twin = copy.deepcopy(module)
    compiled = torch.compile(twin, fullgraph=True)
    y, expected = compiled(x), module(x)
    scale = float(expected.detach().abs().max())
    assert float((y - expected).detach().abs().max()) <= 1e-4 * scale
    for each in (y, expected):
        (each / scale).square().mean().backward()
    largest = max(float(parameter.grad.norm()) for parameter in module.parameters() if parameter.grad is not None)
    for ours, theirs in zip(twin.parameters(), module.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert float((ours.grad - theirs.grad).norm()) <= 1e-3 * largest


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_inductor_on_a_block(training: bool, randomise: Randomise) -> None:
    inductor_agrees(block_in("train", "pssa", randomise).train(training), torch.randn(2, 8, 8, 8))


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_inductor_on_a_model(training: bool, randomise: Randomise) -> None:
    inductor_agrees(whole_model("train", randomise).train(training), torch.randn(4, 3, 32, 32))


def check_onnx(module: nn.Module, x: Tensor, folder: Path, *sizes: tuple[int, ...], shapes: object = ANY_SIZE) -> None:
    import onnxruntime  # here: half a second for the slow tests alone

    program = torch.onnx.export(
        module, (x,), dynamo=True, verbose=False, dynamic_shapes=shapes, input_names=["x"], output_names=["y"]
    )
    program.save(folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    check(lambda x: torch.from_numpy(session.run(["y"], {"x": x.numpy()})[0]), module, *sizes)
