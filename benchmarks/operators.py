"""Speed and memory of X-volution's operators, as ratios to conv3x3 + BN of the same shape in the same run.

    OMP_NUM_THREADS=1 python benchmarks/operators.py --json docs/results/operators_cpu.json

Prints tables and, with --json, writes them beside it as Markdown. See benchmarks/README.md for what is measured and how.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from operators_page import KINDS, page
from torch import Tensor, nn

import xvol
from xvol.branches.attention import shifted
from xvol.branches.pssa import Execution, set_execution

SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels, edge: the four stages of a ResNet at 224x224
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
BASE, R1, QUARTER = "conv3x3 + BN", "pssa R=1", "pssa quarter"
OURS = {R1: {}, QUARTER: {"embed_ratio": 0.25}}
OWN = ("conv", "identity", "pssa")  # every other registered branch is a rival, at its defaults
RESNET_N = 2

Row = dict[str, Any]
Run = Callable[[], Any]


def targets(name: str, channels: int) -> dict[str, float]:
    """Targets, as ratios to `BASE` in its better memory format: norms in training mode, N = 32, one thread of a CPU."""
    wide = channels >= 128
    return {
        R1: {"forward": 1.50 if wide else 1.70, "forward+backward": 1.52 if wide else 1.75},
        QUARTER: {"forward": 1.20 if wide else 1.38, "forward+backward": 1.20 if wide else 1.38},
    }.get(name, {})


class PlainAutograd(nn.Module):
    """PSSA of rank 1 as anyone would write it in ten lines: what ours has to be worth its code beside."""

    def __init__(self, channels: int, embed: int) -> None:
        super().__init__()
        self.query, self.key = (nn.Conv2d(channels, embed, 1, bias=False) for _ in range(2))
        self.neighbours = nn.Conv2d(embed, embed, 3, padding=1, groups=embed, bias=False)
        self.project = nn.Conv2d(embed, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return self.project(self.query(x) * self.neighbours(self.key(x)))


class NaiveShifted(nn.Module):
    """A PSSA branch computed by shifted copies with a dense matrix for each direction, one after the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = xvol.branch_class("pssa")(channels, channels)
        self.project_DOE = nn.Parameter(torch.randn(8, channels, channels) / channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        q, k = self.branch.query(x), self.branch.key(x)
        copies = shifted(k, directions=8, shift=1, stride=1, border="zero")
        y = torch.zeros_like(x)
        for project_OE, moved in zip(self.project_DOE, copies, strict=True):
            y = y + torch.einsum("oe,behw->bohw", project_OE, q * moved)
        return y


class Sum(nn.Module):
    """[conv3x3 -> BN] + [branch -> BN], for a branch that is not registered."""

    def __init__(self, channels: int, branch: nn.Module) -> None:
        super().__init__()
        self.conv, self.branch, self.norm = conv_norm(channels), branch, nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return self.conv(x) + self.norm(self.branch(x))


def conv_norm(channels: int) -> nn.Sequential:
    """What everything is compared with."""
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))


def block(channels: int, options: dict[str, Any], execution: Execution | None = None, name: str = "pssa") -> nn.Module:
    """[conv3x3 -> BN] + [branch -> BN], both summands at full strength."""
    spec = xvol.BlockSpec.make(["conv", name], {name: options}, gamma=1.0)
    built = xvol.XVolution2d(channels, channels, spec=spec)
    if execution is not None:
        set_execution(built, execution)
    return built


def contestants(channels: int, edge: int, *, rivals: bool, triton: bool = False) -> dict[str, nn.Module]:
    """Everything that is timed at one shape, by name; some of `rivals` take many times as long."""
    found: dict[str, nn.Module] = {BASE: conv_norm(channels)}
    for name, options in OURS.items():
        found[name] = block(channels, options)
        found[f"{name}, recompute"] = block(channels, options, Execution(recompute=True))
        if triton:
            found[f"{name}, Triton"] = block(channels, options | {"triton": True})
    found["ten lines R=1"] = Sum(channels, PlainAutograd(channels, channels))
    found["ten lines quarter"] = Sum(channels, PlainAutograd(channels, channels // 4))
    if rivals:
        found["shifted copies, dense"] = Sum(channels, NaiveShifted(channels))
        for rival in xvol.branch_names():
            if rival not in OWN:
                size = {"feat_size": edge} if rival == "bottleneck_attn" else {}
                found[f"conv + {rival}"] = block(channels, size, name=rival)
    return found


def runs(model: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Run]:
    """What is timed of one model: inference at rest; forward without gradients, and both ways, in training mode."""

    def forward(training: bool) -> Run:
        def run() -> None:
            model.train(training)
            with torch.no_grad():
                model(x)

        return run

    def both() -> None:
        model.train()
        x.grad = None
        model.zero_grad(set_to_none=True)
        model(x).backward(grad)

    return dict(zip(KINDS, (forward(False), forward(True), both), strict=True))


def cpu_clock(run: Run) -> float:
    """Seconds of CPU time that the process spends: on one thread the time of an idle machine, whoever else is on it."""
    start = time.process_time()
    run()
    return time.process_time() - start


def cuda_clock(run: Run) -> float:
    """Seconds between two events on the GPU."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop) / 1000


Jobs = dict[tuple[str, str], Run]  # by form and memory format


def interleaved(jobs: Jobs, rounds: int, clock: Callable[[Run], float]) -> dict[str, Row]:
    """Time all jobs in turn, round after round; the first form is the base. One that takes 2.5 bases runs every tenth round.

    Returns:
        for each form, in whichever of its memory formats has the smaller median: `format`; `ratio`, the median over
        rounds of its time over the better base's in the same round; `ratio_of_minima`; `spread`, the interquartile
        range of the round's ratios; `ms`, its median time; `rounds`; `other_ms`, its median times in the other formats.
    """
    base = next(iter(jobs))[0]
    first = {job: clock(run) for job, run in jobs.items()}
    slow = 2.5 * min(seconds for (name, _), seconds in first.items() if name == base)
    times: dict[tuple[str, str], dict[int, float]] = {job: {} for job in jobs}
    for number in range(rounds):
        for job, run in jobs.items():
            if job[0] == base or first[job] <= slow or number % 10 == 0:
                times[job][number] = clock(run)
    medians = {job: statistics.median(taken.values()) for job, taken in times.items()}
    best = {name: min((job for job in jobs if job[0] == name), key=medians.__getitem__) for name, _ in jobs}
    reference = times[best[base]]
    return {name: compared(times[job], reference, medians, job) for name, job in best.items()}


def compared(
    taken: dict[int, float], reference: dict[int, float], medians: dict[tuple[str, str], float], job: tuple[str, str]
) -> Row:
    """One row of `interleaved`: a form's seconds by round in its better memory format, over the base's."""
    ratios = sorted(seconds / reference[number] for number, seconds in taken.items())
    quarter = len(ratios) // 4
    return {
        "format": job[1],
        "ratio": statistics.median(ratios),
        "ratio_of_minima": min(taken.values()) / min(reference.values()),
        "spread": ratios[-1 - quarter] - ratios[quarter],
        "ms": 1000 * medians[job],
        "rounds": len(taken),
        "other_ms": {form: 1000 * took for (name, form), took in medians.items() if name == job[0] and form != job[1]},
    }


def saved_bytes(model: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass: each storage once; parameters and buffers are not counted."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = run(x)  # alive until all is counted, so that no storage is counted twice under a new address
    del kept
    return sum(seen.values())


def in_formats(models: dict[str, nn.Module], x: Tensor, grad: Tensor) -> dict[tuple[str, str], dict[str, Run]]:
    """What is timed of each model in each memory format, a copy of the model for each."""
    return {
        (name, form): runs(
            copy.deepcopy(model).to(memory_format=layout),
            x.detach().clone(memory_format=layout).requires_grad_(x.requires_grad),
            grad.to(memory_format=layout) if grad.dim() == 4 else grad,
        )
        for name, model in models.items()
        for form, layout in FORMATS.items()
    }


def speed(shape: tuple[int, int], args: argparse.Namespace) -> Iterator[Row]:
    """Rows of the speed table at one shape."""
    channels, edge = shape
    factory = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    x = torch.randn(args.batch, channels, edge, edge, **factory).requires_grad_()
    models = contestants(channels, edge, rivals=args.rivals, triton=args.device == "cuda")
    jobs = in_formats({name: model.to(**factory) for name, model in models.items()}, x, torch.randn_like(x))
    clock = cuda_clock if args.device == "cuda" else cpu_clock
    for kind in KINDS:
        table = interleaved({job: kinds[kind] for job, kinds in jobs.items()}, args.rounds, clock)
        for name, row in table.items():
            target = targets(name, channels).get(kind) if args.device == "cpu" else None
            yield {"shape": f"{channels}x{edge}x{edge}", "name": name, "kind": kind, "target": target} | row


def memory(shape: tuple[int, int], args: argparse.Namespace, compiled: bool) -> Iterator[Row]:
    """Rows of the memory table at one shape: saved activations over those of conv3x3 + BN run the same way."""
    channels, edge = shape
    x = torch.randn(args.batch, channels, edge, edge, device=args.device, requires_grad=True)
    base = 0
    for name, model in contestants(channels, edge, rivals=args.rivals).items():
        if compiled and name != BASE and "recompute" not in name:
            continue
        model.to(args.device)
        count = saved_bytes(model, torch.compile(model, fullgraph=True) if compiled else model, x)
        torch.compiler.reset()
        base = base or count
        yield {
            "shape": f"{channels}x{edge}x{edge}",
            "name": name,
            "mode": "torch.compile" if compiled else "eager",
            "mib": count / 2**20,
            "ratio": count / base,
            "target": 1.5 if "recompute" in name else None,
        }


def resnet50(args: argparse.Namespace) -> Iterator[Row]:
    """ResNet-50 with blocks at all sites of stage 3, against the plain network, at 224x224."""
    import timm  # here: only this part needs it

    models = {"plain": timm.create_model("resnet50")}
    for name, options in OURS.items():
        model = timm.create_model("resnet50")
        chosen = xvol.select(xvol.sites(model), "stage3.*")
        models[name] = xvol.convert(
            model, {site.fqn: xvol.BlockSpec.make(options={"pssa": options}) for site in chosen}
        )
    x = torch.randn(RESNET_N, 3, 224, 224, device=args.device)
    grad = torch.randn(RESNET_N, 1000, device=args.device)
    jobs = in_formats({name: model.to(args.device) for name, model in models.items()}, x, grad)
    clock = cuda_clock if args.device == "cuda" else cpu_clock
    for kind in KINDS:
        for name, row in interleaved(
            {job: kinds[kind] for job, kinds in jobs.items()}, args.resnet_rounds, clock
        ).items():
            target = {R1: 1.10, QUARTER: 1.03}.get(name) if kind == "forward+backward" else None
            yield {"name": name, "kind": kind, "target": target} | row


def onnx(shape: tuple[int, int], args: argparse.Namespace) -> Iterator[Row]:
    """ONNX Runtime on one thread: the fused blocks against the convolution with its norm folded in."""
    import onnxruntime  # an extra, for this part alone

    channels, edge = shape
    x = torch.randn(args.batch, channels, edge, edge)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    jobs: Jobs = {}
    models = {BASE: nn.Conv2d(channels, channels, 3, padding=1)}
    models |= {name: block(channels, wanted).eval().fuse() for name, wanted in OURS.items()}
    for name, model in models.items():
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / "model.onnx"
            torch.onnx.export(model.eval(), (x,), path, dynamo=True, verbose=False)
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: x.numpy()}
        jobs[name, "NCHW"] = lambda session=session, feed=feed: session.run(None, feed)
    for name, row in interleaved(jobs, args.rounds, cpu_clock).items():
        target = {R1: 1.40, QUARTER: 1.12}.get(name)
        yield {"shape": f"{channels}x{edge}x{edge}", "name": name, "kind": "inference", "target": target} | row


def machine(args: argparse.Namespace) -> Row:
    """Where and with what the numbers were taken."""

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
        ).stdout.strip()

    cpu = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
        if cpu.exists()
        else []
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "processor": names[0] if names else platform.processor(),
        "cores": len(names) or None,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if args.device == "cuda" else None,
        "threads": torch.get_num_threads(),
        "load_at_start": round(os.getloadavg()[0], 1),
        "batch": args.batch,
        "dtype": args.dtype,
        "rounds": args.rounds,
        "versions": {name: installed(name) for name in ("torch", "timm", "onnxruntime", "triton")}
        | {"python": platform.python_version()},
        "commit": git("rev-parse", "--short=12", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain", "xvol", "benchmarks")),
    }


def measure(args: argparse.Namespace) -> Row:
    """Take every measurement that the arguments ask for, saying how far it is, and write after each step."""
    results: Row = {"machine": machine(args), "speed": [], "memory": [], "resnet50": [], "onnx": []}
    steps: list[tuple[str, str, Callable[[], Iterator[Row]]]] = []
    for shape in SHAPES:
        steps.append((f"speed {shape}", "speed", partial(speed, shape, args)))
        steps.append((f"memory {shape}", "memory", partial(memory, shape, args, compiled=False)))
        if args.device == "cpu" and importlib.util.find_spec("onnxruntime"):
            steps.append((f"ONNX Runtime {shape}", "onnx", partial(onnx, shape, args)))
    if args.resnet_rounds:
        steps.append(("ResNet-50", "resnet50", partial(resnet50, args)))
    if args.compile:
        steps.append(("memory under torch.compile", "memory", partial(memory, SHAPES[1], args, compiled=True)))
    for title, table, step in steps:
        print(datetime.now(UTC).isoformat(timespec="seconds"), title, flush=True)
        results[table] += step()
        if args.json:
            write(results, args.json)
    return results


def write(results: Row, path: Path) -> None:
    """Write JSON to `path`, and Markdown beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page(results), encoding="utf-8")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here, and as Markdown beside it")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", default=None, help="float32 on a CPU, bfloat16 on a GPU")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--resnet-rounds", type=int, default=7, help="0 leaves ResNet-50 out")
    parser.add_argument(
        "--rivals",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="other branches, and PSSA by shifted copies",
    )
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    args.dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # glibc gives large blocks back to the system at once until one near its limit of 32 MiB has been freed; a process
    # that has run for a while has done so. Without this, page faults are timed.
    torch.zeros(31 * 2**20, dtype=torch.uint8)
    print(page(measure(args)))


if __name__ == "__main__":
    main()
