from __future__ import annotations

import pytest

from search.command_line import refuse_wrong_words
from search.config import config_folder


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
        (["train=3"], "train takes the name of one option: long, proxy, short"),
        (["--resolve"], "--resolve goes with --cfg"),
        (["~train"], "~train: .*choose one of train=long, proxy, short"),
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
