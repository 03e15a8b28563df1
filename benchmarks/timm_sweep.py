"""Surgery on every convolutional timm model: convert all sites, compare logits, fuse, and write down what happened.

    python benchmarks/timm_sweep.py                # all models that are not done yet, the small ones first
    python benchmarks/timm_sweep.py --match 'resnet*' --redo
    python benchmarks/timm_sweep.py --shard 1/2    # every second model; a second process takes --shard 2/2
    python benchmarks/timm_sweep.py --render       # only write the pages again

Each model is built with random weights in a process of its own, forked from this one, and killed after `--timeout`
seconds. One line of JSON is appended to docs/results/timm_surgery.jsonl for each model, so the sweep can be stopped and
started again. docs/results/timm_surgery.csv and docs/surgery.md are written from those lines.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import json
import math
import multiprocessing
import re
import resource
import time
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import xvol  # isort: skip  # before timm, where torch is a CPU build
import timm
from surgery_page import render
from timm.utils.model import reparameterize_model

from xvol.siting import refused

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "timm_surgery.jsonl"
SURVEY = ROOT / "runs" / "timm_sweep" / "survey.jsonl"

TRIES = ((2, 0.1), (2, 0.01), (2, 0.001), (8, 0.1), (8, 0.01), (8, 0.001))  # images, gamma
MOST_LOGIT = 1e12
MOST_SWAY = 1e6  # of the last bit of each pixel: beyond, rounding alone makes an error as large as the bar
DTYPES = (torch.float64, torch.float32)
LARGE = 1e9  # parameters
EDGES = (64, 96, 128, 160, 192, 224, 256)
SPEC = xvol.BlockSpec.make(options={"pssa": {"embed_ratio": 0.25}})
KEEPS = xvol.BlockSpec.make(options={"pssa": {"embed_ratio": 0.25}}, keeps_norm=True)

Row = dict[str, Any]


def main() -> None:
    """Run what is left, then write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default="*", help="names of models, as a shell pattern")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for each model")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after so many minutes")
    parser.add_argument(
        "--at-most-params", type=float, default=math.inf, help="larger models are skipped (default: none)"
    )
    parser.add_argument("--gib", type=int, default=16, help="address space of each model's process (default: 16)")
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="the I-th of N equal shares, from 1"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="a file of lines to add to (default: %(default)s)"
    )
    parser.add_argument("--redo", action="store_true", help="run models that are done again; the last line counts")
    parser.add_argument("--render", action="store_true", help="run nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    survey = _survey()
    if not given.render:
        done = {} if given.redo else _read(given.results)
        names = [row["model"] for row in _by_size(survey) if fnmatch.fnmatch(row["model"], given.match)]
        names = names[given.shard[0] - 1 :: given.shard[1]]
        end = time.monotonic() + 60 * given.minutes
        for name in names:
            if name not in done and time.monotonic() < end:
                _append(given.results, _one(name, survey[name], given.timeout, given.at_most_params, given.gib))
    if given.results == RESULTS and given.shard == (1, 1):  # shards end at different times: --render when all have
        render(_read(RESULTS), survey, ROOT)


def _shard(text: str) -> tuple[int, int]:
    """Parse "1/2"."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    share, shares = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= share <= shares:
        raise argparse.ArgumentTypeError(f"{text!r} must be I/N with 1 <= I <= N, such as 1/2")
    return share, shares


def _read(path: Path) -> dict[str, Row]:
    """Rows by model; a torn last line, left by a kill, is passed over."""
    rows: dict[str, Row] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["model"]] = row
    return rows


def _append(path: Path, row: Row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _by_size(survey: dict[str, Row]) -> list[Row]:
    rows = [row for row in survey.values() if row["convolutional"]]
    return sorted(rows, key=lambda row: (row["params"], row["model"]))


def _survey() -> dict[str, Row]:
    """Family, parameters, and whether there are convolutions, of every model timm has; built without memory."""
    done = _read(SURVEY)
    for name in timm.list_models():
        if name.startswith("xvol_") or name in done:
            continue
        family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
        row: Row = {"model": name, "family": family, "params": 0, "convolutional": True, "note": ""}
        try:
            with torch.device("meta"):
                model = timm.create_model(name)
            row |= {"params": xvol.count_params(model), "convolutional": _is_convolutional(model)}
        except Exception as error:
            row |= {"note": f"does not build without memory: {error}"[:200], "params": 1 << 40}
        _append(SURVEY, row)
        done[name] = row
    return done


def _is_convolutional(model: nn.Module) -> bool:
    """Tell whether some window overlaps its neighbours; a transformer's patches do not."""
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return any(max(conv.kernel_size) > max(1, max(conv.stride)) for conv in convs)


def _one(name: str, known: Row, timeout: float, most_params: float, gib: int) -> Row:
    """Run one model in a process of its own."""
    row = {key: known[key] for key in ("model", "family", "params")}
    if most_params < known["params"] < 1 << 40:
        return row | {"status": f"skipped: above {most_params / 1e6:.0f} M parameters"}
    ours, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(name, theirs, gib), daemon=True)
    start = time.monotonic()
    process.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(timeout) else {"status": f"failed: more than {timeout:.0f} seconds"}
    except EOFError:
        found = {"status": "failed: the process died, most likely for memory"}
    process.kill()
    process.join()
    return row | found | {"seconds": round(time.monotonic() - start, 1)}


def _child(name: str, pipe: Connection, gib: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (gib << 30, gib << 30))
    try:
        pipe.send(_operate(name))
    except MemoryError:
        pipe.send({"status": f"failed: more than {gib} GiB"})
    except Exception as error:
        pipe.send({"status": f"failed: {type(error).__name__}: {error}"[:300]})


def _operate(name: str) -> Row:
    """Convert every site of one model; compare logits in eval and train mode; fuse."""
    model = _built(name)
    size, refusals = _fitting(model)
    reasons: dict[str, int] = {}
    for refusal in refusals:
        reasons[refusal.reason] = reasons.get(refusal.reason, 0) + 1
    row: Row = {"params": xvol.count_params(model), "size": size[1], "refused": reasons, "sites": 0}
    try:
        found = xvol.sites(model, size)
    except ValueError:
        return row | {"status": "no sites"}
    row |= {"sites": len(found), "stages": max(site.stage for site in found)}
    row["depthwise"] = sum(site.groups == site.in_chs > 1 for site in found)
    row["normed"] = sum(site.norm_fqn is not None for site in found)
    del model  # of the largest there is room for two
    if row["normed"]:  # elsewhere both forms are one
        row["keeps"] = _converted(name, dict.fromkeys((site.fqn for site in found), KEEPS), size, (torch.float64,))
    return row | _converted(name, dict.fromkeys((site.fqn for site in found), SPEC), size, DTYPES) | {"status": "ok"}


def _built(name: str) -> nn.Module:
    """The model with random weights, the same each time."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name)
    _stir(model)
    return model


def _converted(
    name: str, chosen: dict[str, xvol.BlockSpec], size: tuple[int, int, int], dtypes: tuple[torch.dtype, ...]
) -> Row:
    """Convert, compare with the plain model, and fuse in each of `dtypes`."""
    model, row = _built(name), Row()
    twin = xvol.convert(copy.deepcopy(model), chosen, size)
    row["converted"] = sum(isinstance(module, xvol.XVolution2d) for module in twin.modules())
    x_BCHW = torch.randn(2, *size)
    for key, training in (("eval_equal", False), ("train_equal", True), ("eval_after_equal", False)):
        pairs = zip(_run(model, x_BCHW, training), _run(twin, x_BCHW, training), strict=True)
        row[key] = all(torch.equal(plain, ours) for plain, ours in pairs)
    row["forward_ok"] = True
    del model
    return row | _fused(twin, size, dtypes)


@torch.no_grad()
def _stir(model: nn.Module) -> None:
    """Move every parameter that is constant: behind a zero-initialised norm, scale or head nothing could be told."""
    for parameter in model.parameters():
        if parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
            parameter.add_(0.2 * torch.randn_like(parameter))


def _fitting(model: nn.Module) -> tuple[tuple[int, int, int], list[Any]]:
    """The smallest image that goes through, and what is refused there."""
    native = tuple(model.pretrained_cfg.get("input_size") or (3, 224, 224))  # type: ignore[union-attr]
    error: Exception | None = None
    for edge in [*(edge for edge in EDGES if edge < native[1]), native[1]]:
        try:
            return (native[0], edge, edge), refused(model, (native[0], edge, edge))
        except Exception as caught:
            error = caught
    assert error is not None
    raise error


def _run(model: nn.Module, x_BCHW: Tensor, training: bool) -> list[Tensor]:
    """All tensors that the model gives, with the same random numbers each time."""
    torch.manual_seed(1)
    with torch.no_grad():
        leaves = tree_leaves(model.train(training)(x_BCHW))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _fused(twin: nn.Module, size: tuple[int, int, int], dtypes: tuple[torch.dtype, ...]) -> Row:
    """Largest error of the fused model, over the largest logit, with branches that speak and norms that have lived.

    "felt" is how far the logits move when the branches fall silent: without it an error of 0 would say nothing.
    Two things make logits of a network that was never trained run away, or sway with the last bit of an image, and an
    error relative to them say nothing: the attention's squares, layer after layer, so that a softer gamma is tried; and
    statistics of two images at maps of 1x1, where a norm divides by the difference of two numbers, so that eight images
    are tried.
    """
    row: Row = {}
    large = xvol.count_params(twin) > LARGE  # two in float64 fill a machine: that one comes last, and fuses in place
    for dtype in reversed(dtypes) if large else dtypes:
        bits = str(dtype)[-2:]
        for images, gamma in TRIES:
            torch.manual_seed(2)
            x_BCHW = torch.randn(images, *size, dtype=dtype)
            try:
                _wake(twin.to(dtype), gamma)
                _run(twin, x_BCHW, training=True)
                y = _run(twin, x_BCHW, training=False)
                scale = max(float(leaf.abs().max()) for leaf in y)
                if not 0 < scale < MOST_LOGIT:
                    continue
                nudged_BCHW = torch.nextafter(x_BCHW, torch.full_like(x_BCHW, math.inf))
                sway = _worst(y, _run(twin, nudged_BCHW, training=False)) / scale / torch.finfo(dtype).eps
                if not sway < MOST_SWAY:
                    continue
                row["felt"] = _worst(y, _silent(twin, x_BCHW)) / scale
                fuse = partial(reparameterize_model, inplace=True) if large and bits == "64" else xvol.fuse
                row[f"fused_error_{bits}"] = _worst(y, _run(fuse(twin.eval()), x_BCHW, training=False)) / scale
            except RuntimeError as error:
                row[f"fused_note_{bits}"] = f"{error}"[:200]
                break
            row[f"fused_images_{bits}"], row[f"fused_gamma_{bits}"] = images, gamma
            break
        else:
            row[f"fused_note_{bits}"] = (
                f"logits up to {scale:.0e} run away, or sway, with every gamma and number of images that was tried"
            )
    return row


def _worst(y: list[Tensor], z: list[Tensor]) -> float:
    """Largest absolute difference."""
    return max(float((a - b).abs().max()) for a, b in zip(y, z, strict=True))


def _silent(twin: nn.Module, x_BCHW: Tensor) -> list[Tensor]:
    """What `twin` gives in eval mode with its branches fallen silent; they speak again afterwards."""
    gammas = [m.norms["pssa"].weight for m in twin.modules() if isinstance(m, xvol.XVolution2d)]
    voices = [gamma.detach().clone() for gamma in gammas]
    with torch.no_grad():
        for gamma in gammas:
            gamma.zero_()
        y = _run(twin, x_BCHW, training=False)
        for gamma, voice in zip(gammas, voices, strict=True):
            gamma.copy_(voice)
    return y


def _wake(model: nn.Module, gamma: float) -> None:
    _each(model, xvol.XVolution2d, lambda block: nn.init.normal_(block.norms["pssa"].weight, std=gamma))
    _each(model, nn.modules.batchnorm._BatchNorm, _forget)


def _each(model: nn.Module, kind: type[nn.Module], do: Callable[[Any], Any]) -> None:
    for module in model.modules():
        if isinstance(module, kind):
            do(module)


def _forget(norm: nn.BatchNorm2d) -> None:
    """Let one batch in train mode set the statistics."""
    norm.reset_running_stats()
    norm.momentum = None


if __name__ == "__main__":
    main()
