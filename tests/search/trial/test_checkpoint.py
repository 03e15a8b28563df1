from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from search.channel import Channel, opened
from search.config import Config, typed
from search.fingerprint import recipe_hash
from search.ledger.result import read_result
from search.trial.run import run_trial
from search.trial.state import CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from search.trial.train import evaluate
from search.trial.untrained import prepare

from .conftest import Small

PHASES = ("single", "search", "final")


@pytest.mark.parametrize(("when", "kept"), [("never", ()), ("final", ("single", "final")), ("always", PHASES)])
def test_which_trials_keep_their_weights(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, kept: tuple[Any, ...]
) -> None:
    assert tuple(phase for phase in PHASES if Config(checkpoint=when).keeps_weights(phase)) == kept  # type: ignore[arg-type]
    with opened(Channel(phase="search")):
        run_trial(small(f"checkpoint={when}"), tmp_path)
    assert (tmp_path / CHECKPOINT_FILE).exists() == ("search" in kept)


def test_the_weights_are_those_that_were_evaluated(small: Small, tmp_path: Path) -> None:
    """The averaged ones: rebuilt, they score exactly what the result says."""
    composed = small("placement.policy=stage3")
    value = run_trial(composed, tmp_path)
    made = prepare(typed(composed))
    made.model.load_state_dict(load_checkpoint(tmp_path / CHECKPOINT_FILE))
    scores = evaluate(made.model, made.loaders.val, made.evaluator("val"))
    assert scores["val_top1"] == value
    assert scores["val_loss"] == pytest.approx(read_result(tmp_path / "result.json").metrics.get("val_loss"))


def test_keeping_weights_makes_no_other_recipe(small: Small) -> None:
    hashes = {recipe_hash(OmegaConf.to_container(small(f"checkpoint={when}"))) for when in ("never", "always")}  # type: ignore[arg-type]
    assert len(hashes) == 1


def test_a_state_dict_round_trips(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    path = save_checkpoint(model, tmp_path)
    state = load_checkpoint(path)
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT_FILE]


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


def test_no_code_is_taken_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Bomb()}, "torch.pt")
    Path("pickle.pt").write_bytes(pickle.dumps(Bomb()))
    for name in ("torch.pt", "pickle.pt"):
        with pytest.raises(ValueError, match=r"cannot read it as a state dict"):
            load_checkpoint(Path(name))
    assert not Path("exploded").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04torn"])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / CHECKPOINT_FILE
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read it as a state dict \(.*\); train the trial again"):
        load_checkpoint(path)


def test_a_file_that_holds_something_else(tmp_path: Path) -> None:
    for content in ([torch.zeros(1)], {"epoch": 3}):
        torch.save(content, tmp_path / CHECKPOINT_FILE)
        with pytest.raises(ValueError, match="expected a state dict"):
            load_checkpoint(tmp_path / CHECKPOINT_FILE)
