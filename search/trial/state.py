"""What a trial keeps on disk of its network: weights, what it puts out for each image, and the state of a running training.

All are written whole or not at all; weights and states are read as tensors and plain values (`weights_only=True`).

A trial that was interrupted goes on as if it had not been: on a CPU its finished weights are the same bit by bit. A
state that does not fit is refused with a line in the log, and the trial starts anew.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search.ledger.files import NewerVersion, move, refuse_newer, write_whole
from search.ledger.samples import write_samples
from search.ledger.study_files import CHECKPOINT_FILE, STATE_FILE
from search.tasks.base import KeepsSamples
from search.trial.content import changes
from search.trial.train import Trainer, evaluate
from search.trial.untrained import Untrained

log = logging.getLogger("xvol")
NEWER_FILE = "state.newer.pt"  # a state that only a later version can continue
LAYOUT = 2  # of the file; to be raised when what is in it changes


def save_checkpoint(network: nn.Module, folder: Path) -> Path:
    """Write the state dict of `network`, its tensors on the CPU, to `folder/checkpoint.pt`; return the path.

    Raises:
        OSError: it cannot be written; torch's writer tells no more of a full disk than that it failed.
    """
    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    path = folder / CHECKPOINT_FILE
    try:
        write_whole(path, lambda temporary: torch.save(state, temporary))
    except RuntimeError as error:
        if not re.search("inline_container|PytorchStreamWriter", str(error)):
            raise
        raise OSError(errno.ENOSPC, "torch could not write all of it: is the disk full?", str(path)) from error
    return path


def keep_samples(made: Untrained, network: nn.Module, device: torch.device, folder: Path) -> None:
    """Write what `network` puts out for each image of the probe set to `folder`; nothing where there is none (`data.probe_size`)."""
    probe, splits, evaluator = made.loaders.probe, made.loaders.splits, made.task.evaluator(made.config, device)
    if probe is None or splits is None:
        return
    if not isinstance(evaluator, KeepsSamples):
        log.warning("task=%s keeps nothing of each image: data.probe_size is of no effect", made.config.task)
        return
    evaluator.keep = True
    evaluate(network, probe, evaluator, made.config.train.amp_type)
    index = splits.probed(made.loaders.test is not None)
    arrays = evaluator.per_sample() or {}
    write_samples(folder, {"index": index.numpy(), "part": splits.part_of(index), **arrays})


def read_test(network: nn.Module, made: Untrained, device: torch.device, folder: Path) -> dict[str, float | None]:
    """The scores of `network` on the test split, which is there; what its evaluators keep of it goes to `folder`."""
    assert made.loaders.test is not None
    scores = made.evaluator("test", device)
    found = evaluate(network, made.loaders.test, scores, made.config.train.amp_type)
    scores.write(folder)
    return found


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a state dict; only tensors are taken from the file, never code (`weights_only=True`).

    Raises:
        ValueError: the file cannot be read, or holds something else than a state dict.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on a torn file torch's unpickler fails in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: torch {torch.__version__} cannot read it as a state dict ({reason}); train the trial again"
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: expected a state dict, that is names and tensors; found {type(state).__name__}")
    return dict(state)


class StateRefused(Exception):
    """A saved state cannot be continued here; the message says why."""


class Saver:
    """Writes the state of a trial to its folder.

    Args:
        folder: of the trial.
        fingerprint: of the trial; a state of another one is never continued.
        made_by: its code, images and versions, as `search.trial.content` has them on record: to say what differs.
        every: seconds between two saves at the end of an epoch; 0: each time; None: only when told to stop.
    """

    def __init__(self, folder: Path, fingerprint: str, made_by: Mapping[str, Any], every: float | None) -> None:
        self._path, self._fingerprint, self._made_by = folder / STATE_FILE, fingerprint, made_by
        self._every = math.inf if every is None else every
        self._last = time.monotonic()

    def after_epoch(self, trainer: Trainer, history: Sequence[Mapping[str, Any]]) -> None:
        """Save where the time has come."""
        if time.monotonic() - self._last >= self._every:
            self.save(trainer, history)

    def save(self, trainer: Trainer, history: Sequence[Mapping[str, Any]]) -> bool:
        """Save now; on a full disk the last state stays, and the trial goes on with a warning.

        Returns:
            Whether the state is on the disk.
        """
        state = {
            "layout": LAYOUT,
            "torch": str(torch.__version__),
            "device": next(trainer.model.parameters()).device.type,
            "fingerprint": self._fingerprint,
            "made_by": self._made_by,
            "history": [dict(epoch) for epoch in history],
            "trainer": trainer.state_dict(),
        }
        self._last = time.monotonic()
        try:
            write_whole(self._path, lambda temporary: torch.save(state, temporary))
        except (OSError, RuntimeError) as error:  # torch's writer says RuntimeError where the disk is full
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            log.warning("the state of the trial could not be saved (%s); it goes on without", reason)
            return False
        return True


def adopt(source: str | None, folder: Path) -> Path | None:
    """Move the state that an interrupted attempt left in `source` to `folder`; return `source` where there was one.

    It is moved at once, so that an attempt that dies early hands on what it was given.
    """
    if source is None:
        return None
    old, new = Path(source) / STATE_FILE, folder / STATE_FILE
    if not old.is_file():
        log.info("no state was saved in %s: the trial starts anew", source)
        return None
    if Path(source).resolve() == folder.resolve():
        return Path(source)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        move(old, new)
    except OSError:  # another file system
        try:
            write_whole(new, lambda temporary: shutil.copyfile(old, temporary))
        except OSError as error:
            log.warning("the state in %s could not be taken over (%s): the trial starts anew", source, error)
            return None
        with contextlib.suppress(OSError):
            old.unlink()
    return Path(source)


def discard(folder: Path) -> None:
    """Remove the state of a trial that has ended."""
    with contextlib.suppress(OSError):
        (folder / STATE_FILE).unlink(missing_ok=True)


def begin(
    make: Callable[[], Trainer], folder: Path, fingerprint: str, made_by: Mapping[str, Any], device: torch.device
) -> tuple[Trainer, list[dict[str, Any]] | None]:
    """A trainer that goes on from the state in `folder`, with the epochs it has behind it; a new one without a state.

    Args:
        make: makes a new trainer, with a network of its own at each call.

    Returns:
        The trainer, and the finished epochs of the state, or None where the trainer starts anew.
    """
    if not (folder / STATE_FILE).is_file():
        return make(), None
    try:
        state = read_state(folder, fingerprint, made_by, device)
        trainer = make()
        restore(trainer, state)
    except StateRefused as reason:
        log.warning("the saved state of the trial is refused, since %s: the trial starts anew", reason)
        discard(folder)
        return make(), None
    except NewerVersion as reason:
        aside = folder / NEWER_FILE
        move(folder / STATE_FILE, aside)
        log.warning("%s. It is kept as %s; the trial starts anew", reason, aside.name)
        return make(), None
    return trainer, list(state["history"])


def read_state(folder: Path, fingerprint: str, made_by: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Read the state in `folder`; only tensors and plain values are taken from the file (`weights_only=True`).

    Raises:
        NewerVersion: it is of a later layout.
        StateRefused: it is torn, or of another trial, layout, version of torch or kind of device.
    """
    try:
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    except Exception as error:  # on a torn file torch's unpickler fails in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StateRefused(f"the file cannot be read ({reason})") from None
    layout = state.get("layout") if isinstance(state, dict) else None
    refuse_newer(folder / STATE_FILE, "layout", layout, LAYOUT)
    if layout != LAYOUT:
        raise StateRefused(f"its layout is {layout}, here it is {LAYOUT}")
    differs = changes(state.get("made_by") or {}, made_by)
    if differs and state.get("fingerprint") != fingerprint:
        raise StateRefused("; ".join(differs))
    for name, here in (("fingerprint", fingerprint), ("torch", str(torch.__version__)), ("device", device.type)):
        if state.get(name) != here:
            raise StateRefused(f"its {name} is {state.get(name)}, here it is {here}")
    return state


def restore(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Put `trainer` where `state` was taken.

    Raises:
        StateRefused: it does not fit; the trainer and its model are then spoiled.
    """
    try:
        trainer.load_state_dict(state["trainer"])
    except Exception as error:  # torch raises what it likes
        reason = str(error).splitlines()[0] if str(error) else ""
        raise StateRefused(f"it does not fit ({type(error).__name__}: {reason})") from None
