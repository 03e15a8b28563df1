"""What a trial's training costs beside the bare step: pictures in memory, at each precision and memory format.

    OMP_NUM_THREADS=1 python benchmarks/training.py --md docs/results/training.md     # about 3 minutes of CPU on one core

`step` is forward, backward and optimiser on one batch that lies ready. `epoch` is a trial's own training: batches shuffled,
shifted, flipped and normalised, draws keyed, the average of the weights, the schedule, looks at the loss and at the study.
Both on one thread, in turn, round after round; the clock is the CPU time of the process, which what else runs on the machine
changes least.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from omegaconf import OmegaConf

from search.config import Config, register, typed
from search.trial.optim import make_optimizer
from search.trial.train import autocast, formed
from search.trial.untrained import Untrained, prepare

DATA = {
    "name": "cifar10",
    "train_size": 4096,
    "val_size": 128,
    "test_size": 128,
    "batch_size": 128,
    "flip": True,
    "crop_padding": 4,
}
NETWORKS = {"8 to 64 channels": [8, 16, 32, 64], "16 to 128 channels": [16, 32, 64, 128]}
FORMS = {
    f"{amp}, {'channels_last' if last else 'NCHW'}": {"amp": amp == "bf16", "channels_last": last}
    for amp, last in itertools.product(("fp32", "bf16"), (False, True))
}
CPU = torch.device("cpu")


def made(channels: list[int], form: dict[str, bool]) -> Untrained:
    """The default recipe on CIFAR-10 in memory; epochs without end, of which none is evaluated."""
    recipe = {**form, "epochs": 1000, "eval_every": 1000}
    own = {"data": DATA, "train": recipe, "backbone": {"kwargs": {"channels": channels}}}
    return prepare(typed(OmegaConf.merge(OmegaConf.structured(Config), own)))


def bare_steps(trial: Untrained) -> Callable[[], None]:
    """As many steps as an epoch has, on one batch that lies ready."""
    recipe = trial.config.train
    training = trial.task.training(formed(copy.deepcopy(trial.model), recipe, CPU), recipe)
    model = training.get_trainable_module()
    assert model is not None
    optimizer = make_optimizer(model, recipe)
    inputs, targets = next(iter(trial.loaders.train.at(1)))

    def steps() -> None:
        for _ in range(len(trial.loaders.train)):
            optimizer.zero_grad(set_to_none=True)
            with autocast(CPU, recipe.amp_type):
                loss = training(inputs, targets)["loss"]
            loss.backward()
            optimizer.step()

    return steps


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time that it takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measured(channels: list[int], rounds: int) -> list[tuple[str, float, float, float]]:
    """Each form's microseconds an image of the bare step and of the epoch, and the median over rounds of step / epoch."""
    work = {}
    for name, form in FORMS.items():
        trial = made(channels, form)
        epochs = trial.trainer(val=[]).epochs()
        work[name] = (bare_steps(trial), lambda epochs=epochs: next(epochs))
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in FORMS}
    for number in range(rounds + 1):
        for name, (steps, epoch) in work.items():
            pair = (cpu_seconds(steps), cpu_seconds(epoch))
            if number:  # the first warms up
                taken[name].append(pair)
    images = DATA["train_size"]
    rows = []
    for name, pairs in taken.items():
        step, epoch = (statistics.median(column) / images * 1e6 for column in zip(*pairs, strict=True))
        rows.append((name, step, epoch, statistics.median(one / other for one, other in pairs)))
    return rows


def page(rounds: int) -> str:
    """The page, measured."""
    lines = [
        "# What a trial's training costs beside the bare step",
        "",
        f"`benchmarks/training.py --rounds {rounds}`: CIFAR-10 in memory, batches of 128, one thread, CPU time; medians over "
        f"{rounds} rounds. `share` is the bare step's part of an epoch without its evaluation: 1 would be a loader, an average of "
        "the weights and a schedule for nothing. The bar is 0.93 at each network's fastest form.",
        "",
        "| network | form | step, us an image | epoch, us an image | share |",
        "|---|---|---|---|---|",
    ]
    for network, channels in NETWORKS.items():
        rows = measured(channels, rounds)
        fastest = min(rows, key=lambda row: row[1])
        for row in rows:
            mark = " (fastest)" if row is fastest else ""
            lines.append(f"| {network} | {row[0]}{mark} | {row[1]:.0f} | {row[2]:.0f} | {row[3]:.3f} |")
    lines += [
        "",
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--md", type=Path, help="file of the page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    register()
    text = page(options.rounds)
    print(text)
    if options.md:
        options.md.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
