"""A trial that was interrupted, however it was, ends with the same weights, bit by bit, as one that was not."""

from __future__ import annotations

import csv
import itertools
import logging
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch.utils._pytree import tree_flatten

from search.channel import Channel, Pruned, Stopped, opened
from search.config import typed
from search.ledger.result import TrialResult, read_result
from search.ledger.samples import SAMPLES_FILE
from search.ledger.study_files import STATE_FILE
from search.trial import state as module
from search.trial.run import run_trial
from search.trial.state import adopt, load_checkpoint
from search.trial.train import Halted, Trainer
from search.trial.untrained import prepare

from .conftest import Small, environment

RECIPES = {
    "ema, onecycle, augmentation": [
        *("train.ema_decay=0.9", "train.schedule=onecycle", "data.flip=true", "data.crop_padding=2"),
        *("placement.policy=stage3", "branch.gamma=1"),
    ],
    "amp, adamw, cosine, no ema": [
        *("train.amp=true", "train.opt=adamw", "train.lr=0.01", "train.schedule=cosine", "train.ema_decay=null"),
        "train.clip_grad=1",
    ],
    "a supernet": ["train.accumulate=2", "placement.at={stage2: conv+pssa, stage3: none|conv+pssa, stage4: none|pssa}"],
    "all that timm's recipes have": [
        *("train.opt=lamb", "train.lr=0.005", "train.weight_decay=0.02", "train.clip_grad=1", "train.amp=bfloat16"),
        *("train.schedule=cosine", "train.warmup_epochs=1", "train.warmup_lr=1e-4", "train.warmup_prefix=false"),
        *("train.loss=bce", "train.target_threshold=0.2", "train.mixup=0.1", "train.cutmix=1", "train.reprob=0.25"),
        *("train.ema_decay=0.9", "train.channels_last=true", "train.accumulate=2", "train.layer_decay=0.9"),
        *(
            "backbone.kwargs.drop_path_rate=0.2",
            "backbone.kwargs.drop_rate=0.1",
            "data.flip=true",
            "data.crop_padding=2",
        ),
        *("placement.policy=stage3", "branch.gamma=1"),
    ],
    "all that the proxies have": [
        *("train.opt=muon", "train.lr=0.05", "train.opt_kwargs={nesterov: true, ns_steps: 3, adjust_lr_fn: original}"),
        *(
            "train.whiten=true",
            "train.low_res=0.75",
            "train.low_res_epochs=1",
            "data.flip=alternate",
            "train.amp=bfloat16",
        ),
        *("train.channels_last=true", "train.ema_decay=null", "train.label_smoothing=0.2", "train.accumulate=2"),
        *("placement.policy=stage3", "branch.gamma=1"),
    ],
    "dropout, constant, lamb": [
        *("backbone.kwargs.drop_rate=0.3", "backbone.kwargs.drop_path_rate=0.2", "train.schedule=constant"),
        "train.opt=lamb",
    ],
}
ALWAYS = ("train.epochs=2", "checkpoint=always", "train.state_every_seconds=0", "data.probe_size=100")
RANDOM = (*ALWAYS, "backbone.kwargs.drop_rate=0.3")  # draws from the global generator in each step


class Halting(Channel):
    """A study that asks its trial to stop at its n-th question, counted from 0."""

    def __init__(self, stop_at: int | None = None, **facts: Any) -> None:
        super().__init__(study="demo", phase="search", **facts)
        self.stop_at, self.asked = stop_at, 0
        self.reports: list[tuple[int, float]] = []

    def stop_requested(self) -> bool:
        self.asked += 1
        return self.asked - 1 == self.stop_at

    def report(self, step: int, value: float) -> None:
        self.reports.append((step, value))


def train(config: DictConfig, folder: Path, channel: Halting | None = None) -> TrialResult:
    with opened(channel or Halting()):
        run_trial(config, folder)
    return read_result(folder / "result.json")


def stop(config: DictConfig, folder: Path, channel: Halting) -> TrialResult:
    with opened(channel), pytest.raises(Stopped):
        run_trial(config, folder)
    assert (folder / STATE_FILE).is_file()
    return read_result(folder / "result.json")


KILLED = """
import os, signal, sys
from pathlib import Path
import xvol
from omegaconf import OmegaConf
from search.channel import Channel, opened
from search.trial.run import run_trial

class Deadly(Channel):
    asked = 0
    def stop_requested(self):
        self.asked += 1
        if self.asked == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return False

if __name__ == "__main__":  # ranks import it again
    with opened(Deadly(phase="search")):
        run_trial(OmegaConf.load(sys.argv[1]), Path(sys.argv[2]))
"""


def killed(config: DictConfig, folder: Path, at: int) -> None:
    """Train in a process of its own, which is killed when it asks whether to stop for the time `at`, counted from 1."""
    script, written = folder.with_suffix(".py"), folder.with_suffix(".yaml")
    script.write_text(KILLED)
    OmegaConf.save(config, written)
    command = [sys.executable, *map(str, (script, written, folder, at))]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=250)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


def curve(folder: Path) -> list[list[str]]:
    with (folder / "history.csv").open() as file:
        return [row[:-1] for row in csv.reader(file)]  # all but the seconds


def assert_equal_trials(one: Path, other: Path) -> None:
    weights, others = load_checkpoint(one / "checkpoint.pt"), load_checkpoint(other / "checkpoint.pt")
    assert weights.keys() == others.keys()
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
    assert curve(one) == curve(other)
    assert (one / SAMPLES_FILE).read_bytes() == (other / SAMPLES_FILE).read_bytes()
    first, second = read_result(one / "result.json"), read_result(other / "result.json")
    for name in ("status", "metrics", "fingerprint", "epochs", "fuse_error"):
        assert getattr(first, name) == getattr(second, name), name


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_several_interruptions_in_a_row_leave_no_trace(small: Small, tmp_path: Path, recipe: str) -> None:
    config = small(*ALWAYS, *RECIPES[recipe])
    study = tmp_path / "demo"
    whole = train(config, study / "trials/0000-s0")
    folders = [study / f"trials/000{number}-s0" for number in range(1, 5)]
    # an epoch has 4 steps, and a question before the first and after each: in the middle of an epoch, between two
    # epochs, after an epoch's last step
    places = [(2, "epoch 1, step 2", 0), (2, "epoch 2, step 0", 1), (4, "epoch 2, step 4", 1)]
    before: Path | None = None
    for attempt, (folder, (question, place, epochs)) in enumerate(zip(folders, places, strict=False), start=1):
        channel = Halting(question, attempt=attempt, resume_from=before and str(before), study_dir=str(study))
        result = stop(config, folder, channel)
        assert (result.status, result.reason) == ("interrupted", f"stopped; its state is saved at {place}")
        assert (result.epochs, result.attempt) == (epochs, attempt)
        assert not (folder / "checkpoint.pt").exists()
        assert not (folder / "error.txt").exists()
        before = folder
        torch.rand(7), random.random(), np.random.rand()  # what the next attempt's process would have drawn
    channel = Halting(attempt=4, resume_from=str(before), study_dir=str(study))
    result = train(config, folders[3], channel)
    assert_equal_trials(study / "trials/0000-s0", folders[3])
    assert (result.attempt, result.resumed_from) == (4, "trials/0003-s0")
    assert [step for step, _ in channel.reports] == [1, 2]  # the first epoch is told again
    assert [row[0] for row in curve(folders[3])] == ["epoch", "1", "2"]
    assert (result.train_seconds or 0) > 0
    assert whole.resumed_from is None
    assert not list(tmp_path.rglob(STATE_FILE))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides for a folder of 4 classes with 110 pictures each, which are decoded on the way and changed by RandAugment."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(440):
        path = folder / f"class{number % 4}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((48, 36), Image.Resampling.BICUBIC).save(path)
    return [
        *("data.name=folder", f"data.path={folder}", "data.image_size=32", "train.aa=rand-m7-mstd0.5-inc1"),
        *("train.scale=[0.08,1]", "train.repeats=2", "train.train_interpolation=random"),
    ]


@pytest.mark.parametrize("source", ["in memory", pytest.param("decoded on the way", marks=pytest.mark.slow)])
def test_every_tensor_is_that_of_a_training_that_was_not_halted(
    small: Small, tmp_path: Path, pictures: list[str], source: str
) -> None:
    """Model, average, optimiser, schedule: at a random step, with other workers, with all that timm's recipes have."""
    of_source = pictures if source == "decoded on the way" else []
    overrides = ["train.epochs=3", *RECIPES["all that timm's recipes have"], *of_source]

    def made(workers: int, stop_at: int | None = None) -> Trainer:
        asked = itertools.count()
        config = typed(small(*overrides, f"data.workers={workers}"))
        return prepare(config).trainer(halt=lambda: next(asked) == stop_at)

    whole, stop_at = made(0), random.SystemRandom().randrange(1, 15)  # 3 epochs of 4 steps, a question more for each
    list(whole.epochs())
    halted = made(2, stop_at)
    with pytest.raises(Halted) as where:
        list(halted.epochs())
    torch.save(halted.state_dict(), tmp_path / "state.pt")
    torch.rand(7), random.random(), np.random.rand()  # what another process would have drawn
    again = made(1)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    list(again.epochs())
    states = [tree_flatten({**trainer.state_dict(), "seconds": 0})[0] for trainer in (whole, again)]
    assert len(states[0]) == len(states[1]) > 200
    for there, here in zip(*states, strict=True):
        assert torch.equal(there, here) if isinstance(there, torch.Tensor) else there == here, str(where.value)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ema, onecycle, augmentation", "all that timm's recipes have"])
def test_a_process_that_is_killed_goes_on_from_its_last_checkpoint(small: Small, tmp_path: Path, recipe: str) -> None:
    config = small(*ALWAYS, "train.epochs=3", *RECIPES[recipe])
    dead = tmp_path / "dead"
    killed(config, dead, 13)
    assert not (dead / "result.json").exists()
    assert [row[0] for row in curve(dead)] == ["epoch", "1", "2"]
    with (dead / "history.csv").open("ab") as file:
        file.write(b"3,0.1\xff")  # a line that the death tore
    channel = Halting(attempt=2, resume_from=str(dead))
    result = train(config, tmp_path / "again", channel)
    train(config, tmp_path / "whole")
    assert_equal_trials(tmp_path / "whole", tmp_path / "again")
    assert result.resumed_from == str(dead)
    assert channel.asked == 5  # the third epoch alone was trained
    assert [step for step, _ in channel.reports] == [1, 2, 3]
    assert not (dead / STATE_FILE).exists()


@pytest.fixture(scope="module")
def made(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two trials of one config: "whole", and "stopped" in its second epoch."""
    folder = tmp_path_factory.mktemp("made")
    train(small(*RANDOM), folder / "whole")
    stop(small(*RANDOM), folder / "stopped", Halting(7))
    return folder


@pytest.fixture
def stopped(made: Path, tmp_path: Path) -> Path:
    """Folder of a trial that was stopped in its second epoch; the whole one lies beside it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "stopped"


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _changed(**values: Any) -> Any:
    def change(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        torch.save(state | values, path)

    return change


def _other_shape(path: Path) -> None:
    """Fits up to the last weight: what was loaded before it must not be trained."""
    state = torch.load(path, weights_only=True)
    state["trainer"]["model"]["fc.weight"] = torch.zeros(3, 3)
    state["trainer"]["model"]["conv1.weight"] += 1
    torch.save(state, path)


def _late_misfit(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["trainer"]["model"]["conv1.weight"] += 1
    state["trainer"]["epoch"] = "none"  # the optimiser's state is taken before
    torch.save(state, path)


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


MISFITS: dict[str, tuple[Any, str]] = {
    "torn": (_torn, "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "code": (lambda path: torch.save({"layout": 2, "trainer": Bomb()}, path), "cannot be read"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps(Bomb())), "cannot be read"),
    "something else": (lambda path: torch.save([1], path), "its layout is None, here it is 2"),
    "another layout": (_changed(layout=1), "its layout is 1, here it is 2"),
    "another trial": (_changed(fingerprint="0123456789"), "its fingerprint is 0123456789, here it is"),
    "another torch": (_changed(torch="1.0.0"), "its torch is 1.0.0"),
    "another device": (_changed(device="cuda"), "its device is cuda, here it is cpu"),
    "another shape": (_other_shape, r"does not fit \(RuntimeError: "),
    "another epoch": (_late_misfit, "does not fit"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_state_that_does_not_fit_is_refused_and_the_trial_starts_anew(
    small: Small, stopped: Path, misfit: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(stopped)
    spoil, reason = MISFITS[misfit]
    spoil(stopped / STATE_FILE)
    again = stopped.parent / "again"
    with caplog.at_level(logging.WARNING, "xvol"):
        result = train(small(*RANDOM), again, Halting(attempt=2, resume_from=str(stopped)))
    (line,) = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert re.search(rf"is refused, since .*{reason}.*: the trial starts anew", line)
    assert (result.attempt, result.resumed_from) == (2, None)
    assert_equal_trials(stopped.parent / "whole", again)
    assert not (stopped / "exploded").exists()


def test_a_state_of_a_later_version_is_refused_and_kept(
    small: Small, stopped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _changed(layout=3)(stopped / STATE_FILE)
    content = (stopped / STATE_FILE).read_bytes()
    again = stopped.parent / "again"
    result = train(small(*RANDOM), again, Halting(attempt=2, resume_from=str(stopped)))
    assert (result.status, result.resumed_from) == ("ok", None)
    assert (again / "state.newer.pt").read_bytes() == content
    assert "layout 3; this version reads layout 2" in caplog.text


def test_another_recipe_does_not_go_on_from_a_state(small: Small, stopped: Path) -> None:
    changed = small(*RANDOM, "train.lr=0.05")
    result = train(changed, stopped.parent / "again", Halting(resume_from=str(stopped)))
    assert (result.status, result.resumed_from) == ("ok", None)


def test_a_folder_without_a_state_is_no_obstacle(small: Small, tmp_path: Path) -> None:
    result = train(small(), tmp_path / "new", Halting(attempt=3, resume_from=str(tmp_path / "nowhere")))
    assert (result.status, result.attempt, result.resumed_from) == ("ok", 3, None)


def test_a_trial_can_go_on_in_its_own_folder(small: Small, stopped: Path) -> None:
    result = train(small(*RANDOM), stopped, Halting(attempt=2, resume_from=str(stopped)))
    assert (result.status, result.resumed_from, result.epochs) == ("ok", str(stopped), 2)
    assert_equal_trials(stopped.parent / "whole", stopped)


def test_a_state_that_nobody_named_is_not_continued(small: Small, stopped: Path) -> None:
    assert train(small(*RANDOM), stopped, Halting()).resumed_from is None
    assert not (stopped / STATE_FILE).exists()


def test_a_state_is_handed_on_by_an_attempt_that_dies_early(small: Small, stopped: Path) -> None:
    class InTheWay(Halting):
        def admit(self, *_: Any) -> None:
            raise KeyboardInterrupt

    second = stopped.parent / "second"
    with opened(InTheWay(resume_from=str(stopped))), pytest.raises(KeyboardInterrupt):
        run_trial(small(*RANDOM), second)
    assert not (stopped / STATE_FILE).exists()
    assert read_result(second / "result.json").status == "interrupted"
    third = train(small(*RANDOM), stopped.parent / "third", Halting(resume_from=str(second)))
    assert third.resumed_from == str(second)


def test_a_state_crosses_file_systems(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, calls = os.replace, []

    def across(source: Any, target: Any) -> None:
        calls.append(source)
        if Path(source).name == STATE_FILE:
            raise OSError(18, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", across)
    content = (stopped / STATE_FILE).read_bytes()
    assert adopt(str(stopped), tmp_path / "new") == stopped
    assert (tmp_path / "new" / STATE_FILE).read_bytes() == content
    assert not (stopped / STATE_FILE).exists()
    monkeypatch.setattr(module.shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    assert adopt(str(tmp_path / "new"), tmp_path / "newer") is None
    assert (tmp_path / "new" / STATE_FILE).exists()


@pytest.mark.parametrize(("every", "saves"), [("0", 3), ("1000", 0), ("null", 0)])
def test_how_often_a_state_is_saved(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: str, saves: int
) -> None:
    written: list[str] = []
    original = module.write_whole

    def counted(path: Path, write: Any) -> None:
        written.append(path.name)
        original(path, write)

    monkeypatch.setattr(module, "write_whole", counted)
    train(small("train.epochs=3", f"train.state_every_seconds={every}"), tmp_path / "whole")
    assert written == [STATE_FILE] * saves
    stop(small("train.epochs=3", f"train.state_every_seconds={every}"), tmp_path / "stopped", Halting(1))
    assert written == [STATE_FILE] * (saves + 1)


class Pruning(Halting):
    def should_prune(self) -> bool:
        return True


@pytest.mark.parametrize("ending", ["pruned", "failed"])
def test_the_state_of_a_trial_that_has_ended_is_removed(small: Small, tmp_path: Path, ending: str) -> None:
    config = small(*ALWAYS, "train.epochs=3", *(["measure.fuse_tolerance=0"] if ending == "failed" else []))
    placed = OmegaConf.merge(config, {"placement": {"policy": "all"}, "branch": {"gamma": 1.0}})
    assert isinstance(placed, DictConfig)
    channel = Pruning() if ending == "pruned" else Halting()
    with opened(channel), pytest.raises(Pruned if ending == "pruned" else RuntimeError):
        run_trial(placed, tmp_path)
    assert read_result(tmp_path / "result.json").status == ending
    assert not (tmp_path / STATE_FILE).exists()
