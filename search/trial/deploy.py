"""A trial's network as one file: rebuilt from its config, with its weights, fused to deploy or as trained, and compared.

Of a detector `.onnx` and `.pt2` hold backbone and pyramid alone: shapes in its heads depend on what is in a picture.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn
from torch.fx.experimental import _config
from torch.utils._pytree import tree_leaves
from yaml import YAMLError

import xvol  # before timm: it mends a CPU torch, and has its own models registered

# isort: split
import timm

from search.config import AUTO, Config, typed
from search.data.config import channels, image_size
from search.data.images import DataInfo
from search.ledger.files import write_whole
from search.ledger.metric import DETECTORS
from search.ledger.result import RESULT_FILE, TrialResult, read_result
from search.tasks.base import task_named
from search.tasks.detector import classes_of
from search.trial.state import CHECKPOINT_FILE, load_checkpoint

FORMS = ("deploy", "train")
MOST_INLINE_BYTES = 1_900_000_000  # protobuf, which an ONNX file is, ends at 2 GiB, and the graph needs room too
SHAPES_NETWORK = ("backbone", "placement", "branch", "data", "seed", "start", "task", "detector")

_PART = (
    "in the file: backbone and pyramid, from normalised images to named maps; the heads are not in it, for shapes in them depend on "
    "what is in a picture (--out *.pth has their weights)"
)
_ALL = "in the file: the whole detector; the line above counts and compares its backbone and pyramid"


def export_trial(folder: Path, out: Path, *, form: str = "deploy", fixed_size: bool = False) -> str:
    """Write the network of the trial in `folder`, in eval mode, to `out`, whose suffix is the format.

    Args:
        form: "deploy" writes the fused network, "train" the network as it was trained.
        fixed_size: height and width are those of the trial's images and no others. N is always free.

    Returns:
        What was written and the largest errors, in words; of a detector also what of it is in the file.

    Raises:
        ValueError: `form` is another, `folder` is no trial or kept no weights, they are of another network, a
            package is missing, or the network cannot be traced.
        OSError: `folder` has no config, or `out` cannot be written.
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r} must be one of {', '.join(FORMS)}")
    config, result = _trial(folder)
    if out.suffix == ".onnx":
        _need_onnx()
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: the trial {_why_no_weights(result)}. Train it again with checkpoint=always, which "
            "keeps the weights of every trial (checkpoint=final: of final and single ones)"
        )
    state = load_checkpoint(path)
    whole, size = _rebuild(config, state, result, folder)
    finds = config.task in DETECTORS
    network = whole.get_submodule("backbone") if finds else whole
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    if form == "train":
        told = f"as trained, {xvol.count_params(network)} params"
    else:
        told = str(xvol.fuse_report(network, images, plain=True))
        network = xvol.fuse(network, size).eval()
    if out.suffix == ".pth" and finds:
        whole.set_submodule("backbone", network)
        network = whole
    written = _write(network, images, out, fixed_size, form)
    lines = [f"{folder}: {f'{result.arm}, ' if result else ''}{told}", f"written: {out}{written}"]
    return "\n".join([*lines, *([_ALL if out.suffix == ".pth" else _PART] if finds else []), *_other_torch(result)])


def _trial(folder: Path) -> tuple[Config, TrialResult | None]:
    """What of a trial's config shapes its network, and its result where it has one."""
    path = folder / ".hydra" / "config.yaml"
    try:
        whole: Any = OmegaConf.load(path)
        if "backbone" not in whole:
            raise ValueError(f"{path}: not the config of a trial, for it has no backbone")
        shaping = {name: whole[name] for name in SHAPES_NETWORK if name in whole}
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable config ({error})") from None
    config = typed(OmegaConf.create(shaping))
    if config.branch.gamma == AUTO and config.is_continued:
        config.branch.gamma = None  # what "auto" stood for, which the next line makes the config forget
    config.backbone = config.backbone.untrained  # the checkpoint has the weights
    done = folder / RESULT_FILE
    return config, read_result(done) if done.is_file() else None


def _why_no_weights(result: TrialResult | None) -> str:
    if result is None:
        return "has not finished"
    if result.status != "ok":
        return f"ended as {result.status!r} ({result.reason})"
    return f"is of phase {result.phase!r} and kept none"


def _rebuild(
    config: Config, state: dict[str, Tensor], result: TrialResult | None, folder: Path
) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network in eval mode with its weights, and the (C, H, W) of its images; of a detector, of those its backbone takes."""
    size = (channels(config.data), image_size(config.data), image_size(config.data))
    info = DataInfo.without_data(_classes(config, state, folder), *size[:2])
    model, architecture = task_named(config.task).model(config, info)
    if result is not None and result.arch_hash not in (None, architecture.hash):
        raise ValueError(
            f"{folder}: its config builds architecture {architecture.hash} here, the trial trained {result.arch_hash}; "
            "the config was changed, or a package builds another network now: take the versions of result.json"
        )
    try:
        xvol.load_state_dict(model, state)
    except RuntimeError as error:
        raise ValueError(f"{folder}: the weights are not of the network that its config builds: {error}") from None
    return model.eval(), size


def _classes(config: Config, state: dict[str, Tensor], folder: Path) -> int:
    """Number of classes: the rows of the last layer, so that no data have to be loaded."""
    if config.task in DETECTORS:
        try:
            return classes_of(config.detector.head, state)
        except KeyError as error:
            raise ValueError(f"{folder}: the weights lack {error.args[0]}, of the detector's head") from None
    pretrained = timm.get_pretrained_cfg(config.backbone.name)
    last = getattr(pretrained, "classifier", None)
    name = last if isinstance(last, str) else (last or ("fc",))[0]
    if f"{name}.weight" not in state:
        raise ValueError(f"{folder}: the weights lack {name}.weight, the last layer of {config.backbone.name}")
    return int(state[f"{name}.weight"].shape[0])


def _write(network: nn.Module, images: Tensor, out: Path, fixed_size: bool, form: str) -> str:
    """Write one file; return what is to be said of it."""
    if out.suffix == ".pth":
        state = {name: value.detach() for name, value in network.state_dict().items()}
        write_whole(out, lambda path: torch.save(state, path))
        return f", the state dict of the {form} form"
    with torch.no_grad():
        expected = network(images)
    named = isinstance(expected, dict)  # a pyramid's maps
    names, what = ([f"map_{name}" for name in expected], "maps") if named else (["logits"], "logits")
    outputs: list[Tensor] = tree_leaves(expected)
    beside = ""
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free} if fixed_size else {0: free, 2: free, 3: free},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about torch
        try:
            with _sizes_of_one_allowed():
                program = torch.export.export(network, (images,), dynamic_shapes=shapes)
            if out.suffix == ".pt2":
                write_whole(out, lambda path: torch.export.save(program, path))
            else:
                onnx = torch.onnx.export(
                    program, dynamo=True, verbose=False, input_names=["images"], output_names=names
                )
                assert onnx is not None
                beside = _save_onnx(onnx, network, out)
        except (RuntimeError, ValueError) as error:
            hint = "" if fixed_size else "; --fixed-size asks for less"
            raise ValueError(f"torch {torch.__version__} cannot trace the network: {error}{hint}") from None
    if out.suffix == ".pt2":
        with torch.no_grad():
            differ = _largest_difference(tree_leaves(program.module()(images)), outputs)
        return f", {what} differ by {differ:.1e} from the {form} form"
    return beside + _checked_in_onnxruntime(out, images, outputs, what, form)


def _largest_difference(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True))


def _save_onnx(onnx: Any, network: nn.Module, out: Path) -> str:
    """Write one file, or two where the weights do not fit into one; return what is to be said of the second."""
    tensors = [*network.parameters(), *network.buffers()]
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) <= MOST_INLINE_BYTES:
        write_whole(out, lambda path: onnx.save(str(path)))
        return ""
    # the graph names its data file, so it cannot be written elsewhere and moved
    onnx.save(str(out), external_data=True)
    return f" with its weights in {out}.data, which has to stay beside it"


def _sizes_of_one_allowed() -> contextlib.AbstractContextManager[Any]:
    """As torch.onnx does: else a deep map that is 1x1 for the traced image has to stay 1x1, and larger images fail."""
    patch: Any = _config.patch  # type: ignore[attr-defined]
    return patch(backed_size_oblivious=True) if hasattr(_config, "backed_size_oblivious") else contextlib.nullcontext()


def _checked_in_onnxruntime(out: Path, images: Tensor, expected: list[Tensor], what: str, form: str) -> str:
    try:
        onnxruntime: Any = import_module("onnxruntime")  # optional, and without types
    except ImportError:
        return ", not checked: onnxruntime is not installed"
    session: Any = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    found = map(torch.from_numpy, session.run(None, {"images": images.numpy()}))
    return f", {what} in ONNX Runtime differ by {_largest_difference(found, expected):.1e} from the {form} form"


def _need_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"--out *.onnx needs {' and '.join(missing)}: pip install 'xvol[onnx]'")


def _other_torch(result: TrialResult | None) -> list[str]:
    trained = (result.provenance.get("versions") or {}).get("torch") if result else None
    if trained in (None, torch.__version__):
        return []
    return [f"note: trained with torch {trained}, exported with torch {torch.__version__}"]
