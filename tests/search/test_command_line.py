"""Help that Hydra would print, sooner; and what a user is told of an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import CompactHydraException, HydraException
from omegaconf.errors import OmegaConfBaseException

import search
from search.command_line import RefusedError, explain, is_plain_help, is_users, refuse_wrong_words, told_compactly
from search.config import config_folder
from search.ledger.files import digest
from search.objectives import check_objectives

# somebody's own application under our sweeper, launcher and task
OWN_APP = """
import hydra
from search.app import application
from search.config import config_folder, register

register()

@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
def main(config):
    return application(config)

main()
"""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["=3"], "=3: no key stands before the '='"),
        (["+=3"], r"\+=3: no key"),
        (["-m", "--cfg", "all"], "-m and --cfg are given together"),
        (["--cfg=job", "--multirun", "placement=none,stage3"], "--cfg=job and --multirun are given together"),
        (["--package", "train"], "--package goes with --cfg"),
        (["+experiment=digits_demo"], "write experiment=digits_demo, without a +"),
        (["++placement=stage3"], "write placement=stage3, without a +"),
        (["placement=[stage3,stage4]"], "placement takes the name of one option: all, "),
        (["train=3"], "train takes the name of one option: coco/1x, coco/3x, long, paper/imagenet_100ep"),
        (["--resolve"], "--resolve goes with --cfg"),
        (["~train"], "~train: .*choose one of train=coco/1x, coco/3x, long, paper/imagenet_100ep"),
        (["~pruner"], "~pruner: .*none"),
        (["~train.lr"], "~train.lr: .*choose one of train="),
        (["~objectives"], "~objectives: .*set a value with key=value"),
        (["hydra.sweeper.study_name=b\udcffd"], r"b\\xffd: holds bytes that are no UTF-8"),
        (["wandb_api_key=0123456789"], "wandb_api_key holds a password or key"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_wrong_words(words, config_folder())


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "experiment=digits_demo", "hydra.sweeper.study_name=Größe"],
        ["--cfg", "job", "--resolve"],
        ["--help", "--resolve"],
        ["~branch.options.pssa", "~backbone.kwargs.drop_path_rate=0.1", "~placement.at.stage3"],
        ["~hydra.sweeper.params.placement"],
        ["placement=none,stage3", "+train.x=1", "placement={policy: stage3}"],
        ["train.opt='a=b'", "+branch.options.pssa.x=~", "experiment="],
    ],
)
def test_what_may_be_right_is_left_to_hydra(words: list[str]) -> None:
    refuse_wrong_words(words, config_folder())


def help_of(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "search", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_it_is_hydras() -> None:
    ours, hydras = help_of("--help", "data=cifar10"), help_of("--help", "data=cifar10", "--config-name=config")
    assert ours.stdout == hydras.stdout
    assert "name: cifar10" in ours.stdout
    assert ours.returncode == hydras.returncode == 0


def test_an_override_that_does_not_fit_is_told() -> None:
    done = help_of("--help", "placement=stge3")
    assert done.returncode == 1
    assert "stage3" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], True),
        (["-h", "a=b"], True),
        (["--help", "--config-dir=x"], False),
        (["--hydra-help"], False),
        ([], False),
    ],
)
def test_flags_beside_it_are_left_to_hydra(arguments: list[str], expected: bool) -> None:
    assert is_plain_help(arguments) is expected


def told(composed: Any, override: str) -> str:
    """What a user reads who composes with `override`."""
    with pytest.raises((HydraException, OmegaConfBaseException, ValueError)) as caught:
        composed(override)
    return explain(caught.value)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.epoch=2", ["Did you mean epochs?", "Allowed in train: ", "epochs, opt, opt_kwargs, lr"]),
        ("trian.epochs=2", ["Did you mean train", "Allowed at the top: backbone, placement"]),
        ("experimnt=digits_demo", ["Did you mean experiment?", "sampler"]),
        ("experiment.seed=1", ["write experiment=NAME, of cifar10_stages, digits_demo"]),
        ("placment=stage3", ["placment", "Did you mean placement"]),
        ("branch.option.pssa.rank=2", ["Did you mean options?", "Allowed in branch: use, gamma, keeps_norm, options"]),
        ("hydra.sweeper.n_trial=3", ["Did you mean n_trials", "Allowed in hydra.sweeper: sampler, pruner"]),
        ("hydra.sweeper.final.topk=3", ["Did you mean top_k", "Allowed in hydra.sweeper.final: top_k"]),
        ("train.epochs=many", ["'many'", "train.epochs takes int; the default is 4"]),
        ("train.ema_decay=high", ["train.ema_decay takes float | null; the default is 0.98"]),
        ("data.flip=3.5", ["data.flip takes bool | str; the default is False"]),
        ("hydra.sweeper.n_trials=x", ["hydra.sweeper.n_trials takes int; the default is 20"]),
        ("objectives=3", ["objectives takes list[str]"]),
        (
            "hydra.sweeper.sampler.gamma=3",
            ["To give gamma to what hydra.sweeper.sampler names, write +hydra.sweeper.sam"],
        ),
        (
            "data=imagenet",
            [
                "cifar10",
                "cifar10_all",
                "coco",
                "digit_scenes",
                "digits",
                "fashion_mnist",
                "garment_scenes",
                "hfds",
                "stamp_scenes",
                "tar",
            ],
        ),
        ("experiment=nothing", ["cifar10_stages", "digits_demo"]),
        ("data=foldr", ["data=foldr: there is no such option; did you mean folder?", "Allowed: cifar10, "]),
        ("train=papr/imagenet_100ep", ["did you mean paper/imagenet_100ep?"]),
        ("experiment=stage_placement", ["did you mean paper/stage_placement"]),
        ("sampler=tpee", ["did you mean tpe?"]),
        ("+experiment=digits_demo", ["experiment is given twice, or with a +", "write experiment=NAME"]),
    ],
)
def test_what_went_wrong_and_what_is_allowed(composed: Any, override: str, parts: list[str]) -> None:
    message = told(composed, override)
    for part in parts:
        assert part in message
    assert "HYDRA_FULL_ERROR" not in message
    assert "To append" not in message
    assert "MISSING" not in message
    assert len(message.splitlines()) < 16


def test_a_key_of_hydra_itself_is_not_looked_for_in_our_config(composed: Any) -> None:
    message = told(composed, "hydra.swep.dir=x")
    assert "swep" in message
    assert "Allowed at the top" not in message


def test_a_key_below_a_plain_value_is_told_as_such(composed: Any) -> None:
    message = told(composed, "train.lr.start=3")
    assert "train.lr takes float" in message
    assert "train.lr.start takes" not in message


def test_an_error_without_a_key_is_its_own_message() -> None:
    assert (
        explain(ValueError("backbone.name=x: timm knows no such model")) == "backbone.name=x: timm knows no such model"
    )
    assert explain(ValueError("one\ntwo")) == "one\ntwo"


def test_the_cause_is_told_where_the_message_leaves_it_out() -> None:
    error = RuntimeError("it failed")
    error.__cause__ = OSError("disk full\nmore")
    assert explain(error) == "it failed\ndisk full"


def caught(action: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as found:  # noqa: PT011
        action()
    return found.value


def test_a_fault_of_ours_keeps_its_trace_and_a_users_does_not(tmp_path: Path) -> None:
    assert is_users(caught(lambda: check_objectives(["accuracy"])))
    assert is_users(caught((tmp_path / "missing").read_text))
    assert not is_users(caught(lambda: digest(float("nan"))))  # raised inside of json: no message for a user
    assert not is_users(caught(lambda: check_objectives(None)))  # type: ignore[arg-type]
    assert not is_users(ValueError("from nowhere"))
    for place, ours in ((search.__file__, True), (json.__file__, False)):  # of an error that another process has raised
        error = ValueError("raised there")
        vars(error)["raised_in"] = place
        assert is_users(error) == ours


def test_what_tells_the_user_something_becomes_compact_and_all_else_passes() -> None:
    def refuse() -> None:
        with told_compactly():
            check_objectives(["accuracy"])

    error = caught(refuse)
    assert isinstance(error, CompactHydraException)
    assert isinstance(error, ValueError)
    assert "accuracy" in str(error)
    with pytest.raises(ZeroDivisionError), told_compactly():
        _ = 1 / 0
    with pytest.raises(RefusedError) as again, told_compactly():
        raise error
    assert again.value is error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.epochs=0"], "train.epochs=0: at least 1"),
        (["-m", "train.lr=0.1,0.2", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: at least 1"),
        (["-m", "train.lr=-2,-1"], "must be above 0"),
    ],
)
def test_an_own_application_shows_a_refusal_without_frames(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "app.py").write_text(OWN_APP)
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    done = subprocess.run(
        [sys.executable, "app.py", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert 'File "' not in done.stderr
    assert "Traceback" not in done.stderr
