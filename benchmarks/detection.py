"""What X-volution costs in a detector's step, and our training loop beside that of torchvision's references/detection.

    OMP_NUM_THREADS=1 python benchmarks/detection.py --json docs/results/detection.json     # about 2 minutes of CPU on one core

`step`: forward with losses, backward and optimiser of Mask R-CNN (`detector=small`, `backbone=proxy_resnet_128`, 128 px, batches of 8),
X-volution at stage 3 over plain, on one batch. `loop`: an epoch of a trial, without its evaluation, and an epoch of the reference's
`train_one_epoch` on the same network, scenes and optimiser, with torchvision's own samplers: from PNG files by `CocoDetection`, as its
users have them, and from samples that were decoded beforehand, as ours are. Taken in turn on one thread; the clock is the CPU time of the
process; ratios are medians over rounds of what was taken in the same round.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import statistics
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.utils.data import DataLoader

import xvol  # noqa: F401  # before torchvision, where torch is a CPU build

# isort: split
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.transforms import v2

from search.config import config_folder, register, typed
from search.ledger.provenance import provenance
from search.trial.optim import make_optimizer
from search.trial.train import formed
from search.trial.untrained import Untrained, prepare

SCENES, BATCH = 64, 8
OVERRIDES = (
    *("task=instance_segmentation", "backbone=proxy_resnet_128", "detector=small", "branch=xvolution"),
    *("data=digit_scenes", "data.image_size=128", f"data.train_size={SCENES}", "data.val_size=8", "data.test_size=8"),
    *("data.flip=true", f"data.batch_size={BATCH}", "train=proxy/scenes", "train.clip_grad=null", "tracker=disabled"),
    *("train.schedule=constant", "train.epochs=1000", "train.eval_every=1000"),
)
CPU = torch.device("cpu")


def made(root: Path, *overrides: str) -> Untrained:
    """A trial on a few scenes, whose epochs never end and are not evaluated."""
    with initialize_config_dir(str(config_folder()), version_base=None):
        return prepare(typed(compose("config", [*OVERRIDES, f"data.root={root}", *overrides])))


def step_of(trial: Untrained) -> Callable[[], None]:
    """One step of training on one batch that lies ready."""
    recipe = trial.config.train
    training: Any = trial.task.training(formed(copy.deepcopy(trial.model), recipe, CPU), recipe)
    optimizer = make_optimizer(training.get_trainable_module(), recipe)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # so that proposals, and with them the boxes that heads see, stay those of the start
    inputs, targets = next(iter(trial.loaders.train.at(1)))

    def step() -> None:
        torch.manual_seed(0)  # of the samplers
        optimizer.zero_grad(set_to_none=True)
        training(inputs, targets)["loss"].backward()
        optimizer.step()

    return step


class Meters:
    """What the reference's MetricLogger does at each step: a window of the last values, the sum of all."""

    def __init__(self) -> None:
        self.windows: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=20))
        self.totals: dict[str, float] = defaultdict(float)

    def update(self, **values: Any) -> None:
        """Take the values of one step."""
        for name, value in values.items():
            number = value.item() if isinstance(value, Tensor) else value
            self.windows[name].append(number)
            self.totals[name] += number


def reference_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, loader: Iterable[Any]) -> None:
    """The steps of torchvision's references/detection/engine.py, `train_one_epoch`, on one process without mixed precision."""
    model.train()
    meters = Meters()
    for images, targets in loader:
        inputs = [image.to(CPU) for image in images]
        truth = [
            {name: value.to(CPU) if isinstance(value, Tensor) else value for name, value in each.items()}
            for each in targets
        ]
        losses = model(inputs, truth)
        total = sum(losses.values())
        if not math.isfinite(total.item()):
            raise RuntimeError("the loss is not finite")
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        meters.update(loss=total, **losses)
        meters.update(lr=optimizer.param_groups[0]["lr"])


def coco(folder: Path) -> Any:
    """The training scenes as torchvision's own data set, mirrored half of the time."""
    transforms = v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float32, scale=True)])
    files = CocoDetection(str(folder), str(folder / "train.json"), transforms=transforms)
    wrapped: Any = wrap_dataset_for_transforms_v2(files, target_keys=("boxes", "labels", "masks", "image_id"))
    return wrapped


def batches(samples: Any) -> DataLoader[Any]:
    """As references/detection/train.py loads them, in one process."""
    return DataLoader(samples, BATCH, shuffle=True, collate_fn=lambda parts: tuple(zip(*parts, strict=True)))


def reference(trial: Untrained, loader: Iterable[Any]) -> Callable[[], None]:
    """An epoch of the reference on a copy of the trial's network."""
    recipe = trial.config.train
    model: Any = formed(copy.deepcopy(trial.model), recipe, CPU)
    for part in (model.rpn, model.roi_heads):
        own = part.fg_bg_sampler
        part.fg_bg_sampler = BalancedPositiveNegativeSampler(own.batch_size_per_image, own.positive_fraction)
    optimizer = make_optimizer(model, recipe)
    return lambda: reference_epoch(model, optimizer, loader)


def in_turn(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each, round after round; the order is turned around each time, and the first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name in list(work)[:: 1 if number % 2 else -1]:
            start = time.process_time()
            work[name]()
            if number:
                taken[name].append(time.process_time() - start)
    return taken


def ratio(one: list[float], other: list[float]) -> dict[str, float]:
    """The median of the pairs' ratios, and their quartiles."""
    pairs = [a / b for a, b in zip(one, other, strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4)
    return {"ratio": round(middle, 3), "quartile_1": round(low, 3), "quartile_3": round(high, 3), "rounds": len(pairs)}


def measured(steps: int, epochs: int) -> list[dict[str, Any]]:
    """A row for each comparison."""
    with tempfile.TemporaryDirectory() as folder:
        plain, placed = (made(Path(folder), f"placement={where}") for where in ("none", "stage3"))
        taken = in_turn({"plain": step_of(plain), "xvolution": step_of(placed)}, steps)
        row = {"what": "step: stage-3 X-volution / plain", "bar": "<= 1.05"}
        rows: list[dict[str, Any]] = [
            {**row, **ratio(taken["xvolution"], taken["plain"]), "step_cpu_s": _medians(taken)}
        ]
        training = placed.trainer(val=[]).epochs()
        (scenes,) = Path(folder).glob("digit_scenes-*/scenes")
        files = coco(scenes)
        work: dict[str, Callable[[], object]] = {
            "ours": lambda: next(training),
            "files": reference(placed, batches(files)),
            "memory": reference(placed, batches([files[at] for at in range(len(files))])),
        }
        taken = in_turn(work, epochs)
        images = {name: round(SCENES / seconds, 2) for name, seconds in _medians(taken).items()}
        for kind, what in (("files", "CocoDetection, PNG files"), ("memory", "decoded beforehand")):
            row = {"what": f"images a second: ours / references/detection ({what})", "bar": ">= 0.97"}
            rows.append({**row, **ratio(taken[kind], taken["ours"]), "images_per_cpu_s": images})
    return rows


def _medians(taken: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(seconds), 4) for name, seconds in taken.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=45, help="rounds of single steps")
    parser.add_argument("--epochs", type=int, default=5, help="rounds of epochs")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    register()
    load = os.getloadavg()[0]
    rows, facts = measured(options.steps, options.epochs), provenance()
    found = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        **{name: facts[name] for name in ("commit", "versions", "processor", "cores", "python")},
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "note": "interleaved runs on one thread, CPU time; a load above the number of cores: other work ran on the machine",
        "rows": rows,
    }
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
