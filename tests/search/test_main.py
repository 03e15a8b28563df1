"""The application as a user starts it: processes of their own, and what they answer to what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECRET = "hunter2horse"
SMALL = ["tracker=disabled", "train.epochs=1", "data.train_size=128", "data.val_size=50", "measure.latency_repeats=1"]
# runs the application and says at its end, whatever that is, which heavy packages were imported
DRIVER = """
import atexit, sys
heavy = ("torch", "timm", "torchvision", "optuna", "pandas", "wandb", "sklearn")
atexit.register(lambda: print("IMPORTED", *[name for name in heavy if name in sys.modules]))
from search.__main__ import main
sys.argv[0] = "xvol-search"
main()
"""


def search(folder: Path, *arguments: str) -> tuple[int, str, str, list[str]]:
    """Exit code, output, errors, and the heavy packages that were imported."""
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    output, _, imported = done.stdout.rpartition("IMPORTED")
    return done.returncode, output, done.stderr, imported.split()


def test_help_is_readable_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code, output, errors, imported = search(tmp_path, "--help")
    assert (code, errors, imported) == (0, "", [])
    for part in (
        "python -m search -m experiment=digits_demo",
        "placement: all",
        "n_trials",
        "xvol_proxy_resnet",
        "lr: 0.3",
    ):
        assert part in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["train.epoch=2"],
            ["Key 'epoch' not in 'TrainConfig'", "Did you mean epochs?", "Allowed in train: ", "epochs, opt"],
        ),
        (["train.epochs=many"], ["'many'", "train.epochs takes int; the default is 4"]),
        (["data=imagenet"], ["data=imagenet: there is no such option", "Allowed: ", "cifar10", "folder"]),
        (["train.epochs=0"], ["train.epochs=0: at least 1"]),
    ],
)
def test_a_wrong_key_or_value_is_answered_with_what_is_allowed(
    tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    code, output, errors, imported = search(tmp_path, *arguments)
    assert (code, output, imported) == (1, "", [])
    assert errors.count("xvol-search: ") == 1
    for part in parts:
        assert part in errors
    assert "Traceback" not in errors
    assert "HYDRA_FULL_ERROR" not in errors


def test_a_secret_on_the_command_line_is_refused_and_not_repeated(tmp_path: Path) -> None:
    url = f"hydra.sweeper.storage=postgresql://me:{SECRET}@host/x"
    code, output, errors, imported = search(tmp_path, "-m", "experiment=digits_demo", url)
    assert (code, output, imported) == (1, "", [])
    assert errors.startswith("xvol-search: hydra.sweeper.storage holds a password")
    assert "${oc.env:" in errors
    assert SECRET not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_unknown_backbone_ends_with_one_message(tmp_path: Path) -> None:
    code, _, errors, _ = search(tmp_path, "backbone.name=resnet5", *SMALL)
    assert code == 1
    assert "xvol-search: backbone.name=resnet5: timm knows no such model; did you mean" in errors
    assert "resnet50" in errors
    assert "Traceback" not in errors


def test_one_trial_from_the_command_line(tmp_path: Path) -> None:
    code, output, errors, _ = search(tmp_path, "placement=stage3", "hydra.run.dir=here", *SMALL)
    assert code == 0, output + errors
    assert (tmp_path / "here" / "result.json").is_file()
    assert (tmp_path / "here" / ".hydra" / "config.yaml").is_file()
    assert "epoch 1/1" in output + errors


STUDY = ["-m", "hydra.launcher.device=cpu", "hydra.launcher.workers=2", "hydra.sweep.dir=here", "data=digits"]


@pytest.mark.slow
def test_a_study_checks_and_trains_in_processes_that_are_forked_from_one(tmp_path: Path) -> None:
    space = ["placement.policy=choice(none,stage3)", "hydra.sweeper.n_trials=2"]
    final = ["hydra.sweeper.final.top_k=1", "hydra.sweeper.final.seeds=1"]
    code, output, errors, imported = search(tmp_path, *STUDY, "-v", *space, *final, *SMALL)
    assert code == 0, output + errors
    assert "seed 0: epoch 1/1 val " in output  # with -v alone
    assert set(imported) <= {"optuna", "pandas"}  # the command itself has loaded no torch
    assert len(list((tmp_path / "here").glob("*/*/result.json"))) >= 3
    assert "checking " in output
    assert errors == ""


@pytest.mark.slow
def test_what_a_study_is_refused_for_is_one_message(tmp_path: Path) -> None:
    code, _, errors, imported = search(
        tmp_path, *STUDY, "placement.policy=choice(none,stage3)", "backbone.name=resnet5", *SMALL
    )
    assert code == 1
    assert "xvol-search: backbone.name=resnet5: timm knows no such model; did you mean" in errors
    assert "Traceback" not in errors
    assert "torch" not in imported
