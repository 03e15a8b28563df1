from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from search import config as module
from search.config import (
    OPEN_KEYS,
    Architecture,
    Config,
    config_folder,
    register,
    typed,
)
from search.fingerprint import fingerprint_of, is_late_default, recipe_hash
from search.ledger.files import digest
from search.recipe import TrainConfig

PSSA = {"branches": ["conv", "pssa"], "options": {"conv": {}, "pssa": {"rank": 1, "embed_ratio": 0.25}}, "gamma": 0.0}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_the_folder_of_the_groups_is_found() -> None:
    assert (config_folder() / "config.yaml").is_file()
    assert (config_folder() / "experiment").is_dir()


def test_an_installed_wheel_carries_its_own_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "search"
    (package / "conf").mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(package / "config.py"))
    assert config_folder() == package / "conf"
    (package / "conf").rmdir()
    assert config_folder() == tmp_path / "site-packages" / "conf"


def test_the_schema_is_typed_and_open_where_it_says() -> None:
    register()
    register()  # twice does no harm
    node = ConfigStore.instance().load("schema.yaml").node
    assert OmegaConf.get_type(node) is Config
    assert OmegaConf.to_object(node) == Config()


def plain(*overrides: str, composed: Any) -> dict[str, Any]:
    value = OmegaConf.to_container(composed(*overrides), resolve=True)
    assert isinstance(value, dict)
    return value


def test_defaults_stand_in_python_alone(composed: Any) -> None:
    assert typed(OmegaConf.create({})) == Config()
    assert typed(composed("data=digits")).data.batch_size == 64


def test_a_composed_config_becomes_dataclasses(composed: Any) -> None:
    config = typed(
        composed(
            "train.epochs=1",
            "train.lr=0.2",
            "placement.at.stage3=pssa",
            "branch.options.pssa.rank=2",
            "seed=${train.epochs}",
        )
    )
    assert isinstance(config, Config)
    assert (config.train.lr, config.seed) == (0.2, 1)
    assert config.placement.at == {"stage3": "pssa"}
    assert config.branch.options["pssa"]["rank"] == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": "${nowhere}"}, "configuration: .*nowhere"),
        ({"train": {"epochz": 1}}, "Key 'epochz' not in 'TrainConfig'"),
        ({"train": {"epochs": "many"}}, "configuration: .*many"),
        ({"tracker": {"entity": "${oc.env:NO_SUCH_VARIABLE_HERE}"}}, "configuration: .*NO_SUCH_VARIABLE_HERE"),
    ],
)
def test_what_does_not_resolve_is_one_message(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        typed(OmegaConf.create(values))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_open_keys_take_new_names_and_no_other_key_does(composed: Any) -> None:
    for key in OPEN_KEYS:
        assert OmegaConf.select(composed(f"{key}.anything=x"), f"{key}.anything") == "x"


@pytest.mark.slow
def test_the_recipe_is_what_arms_share(composed: Any) -> None:
    base = recipe_hash(plain(composed=composed))
    for same in (
        "data.root=/elsewhere",
        "data.download=false",
        "seed=5",
        "placement.policy=all",
        "branch.use=pssa",
        "threads=2",
        "train.state_every_seconds=0",
        "train.eval_every=2",
        "train.accumulate=1",
        "measure.zero_cost=[snip]",
        "measure.coco_backend=faster",
    ):
        assert recipe_hash(plain(same, composed=composed)) == base, same
    for other in (
        "train.lr=0.2",
        "train.accumulate=2",
        "train.opt_kwargs.eps=0.1",
        "data.train_size=128",
        "data.split_seed=1",
        "measure.latency_batch=2",
        "backbone.name=resnet18",
    ):
        assert recipe_hash(plain(other, composed=composed)) != base, other
    elsewhere = [plain(f"data.path={place}", composed=composed) for place in ("here", "there")]
    assert recipe_hash(elsewhere[0]) != recipe_hash(elsewhere[1])
    assert recipe_hash(elsewhere[0], anywhere=True) == recipe_hash(elsewhere[1], anywhere=True)
    assert "path" in elsewhere[0]["data"], "the config itself is left as it is"
    assert elsewhere[0]["data"]["path"] == "here"


def test_a_recipe_keeps_the_hash_that_it_had_before_keys_were_added() -> None:
    assert recipe_hash(asdict(Config())) == "7901944dde"
    assert recipe_hash(asdict(Config(train=TrainConfig(lr=0.2, clip_grad=1.0)))) == "3cce211f75"
    assert recipe_hash(asdict(Config(train=TrainConfig(accumulate=2)))) != "7901944dde"
    late = {"train.accumulate": 1, "train.opt_kwargs": {}, "train.mixup": 0.0, "train.eval_every": 1}
    assert all(is_late_default(key, value) for key, value in late.items())
    first = {"train.epochs": 4, "train.state_every_seconds": 60.0, "backbone.kwargs.drop_rate": None, "seed": 0}
    assert not any(is_late_default(key, value) for key, value in first.items())
    assert not is_late_default("train.accumulate", 2)
    assert not is_late_default("train.opt_kwargs.eps", 1e-6)


def test_a_fingerprint_is_equal_for_the_same_run_and_for_no_other() -> None:
    facts = {"arch_hash": ("a", "b"), "recipe_hash": ("c", "d"), "seed": (0, 1), "epochs": (2, 3)}
    phases, contents = ("search", "final"), ("0123456789", "abcdef0123")
    all_of_them = [fingerprint_of(*values) for values in itertools.product(*facts.values(), phases, contents)]
    assert len(set(all_of_them)) == len(all_of_them) == 64
    assert all(re.fullmatch("[0-9a-f]{10}-[0-9a-f]{10}", text) for text in all_of_them)
    assert fingerprint_of("a", "c", 0, 2, "single", "e") == fingerprint_of("a", "c", 0, 2, "search", "e")
    assert len({text.partition("-")[0] for text in all_of_them}) == 32, "what was asked for has the same first half"


def make(
    backbone: str = "xvol_proxy_resnet",
    arguments: dict[str, Any] | None = None,
    blocks: dict[str, Any] | None = None,
    label: str = "stage3: conv+pssa",
) -> Architecture:
    arguments = {"in_chans": 1, "num_classes": 10} if arguments is None else arguments
    return Architecture.make(backbone, arguments, {"layer3.0.conv2": PSSA} if blocks is None else blocks, label)


def backwards(value: Any) -> Any:
    """The same value with every dictionary in the other order."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(list(value))}
    return [backwards(item) for item in value] if isinstance(value, list) else value


def test_the_hash_is_the_one_that_older_ledgers_hold() -> None:
    assert make().hash == "561001af9c"
    assert digest({"b": [1, 2.5, None], "a": "é"}) == "84afbf1d48"


def test_neither_the_label_nor_the_order_of_keys_matters() -> None:
    other = Architecture.make(
        "xvol_proxy_resnet", {"num_classes": 10, "in_chans": 1}, {"layer3.0.conv2": backwards(PSSA)}, "another label"
    )
    assert other == make()
    assert (other.hash, hash(other)) == (make().hash, hash(make()))


def test_sites_are_in_one_order_however_they_were_given() -> None:
    names = ["layer3.0.conv2", "layer1.0.conv2", "layer10.0.conv1"]
    forwards, reverse = (make(blocks=dict.fromkeys(order, PSSA)) for order in (names, names[::-1]))
    assert forwards.sites == reverse.sites == sorted(names)
    assert forwards == reverse


@pytest.mark.parametrize(
    "other",
    [
        make(backbone="resnet18"),
        make(arguments={"in_chans": 3, "num_classes": 10}),
        make(blocks={}),
        make(blocks={"layer4.0.conv2": PSSA}),
        make(blocks={"layer3.0.conv1": PSSA, "layer3.0.conv2": PSSA}),
        make(blocks={"layer3.0.conv2": {**PSSA, "gamma": 1.0}}),
        make(blocks={"layer3.0.conv2": {**PSSA, "branches": ["pssa"]}}),
    ],
)
def test_different_networks_are_different_architectures(other: Architecture) -> None:
    assert other != make()
    assert other.hash != make().hash


@given(JSON)
def test_equal_values_have_equal_digits(value: Any) -> None:
    assert digest(value) == digest(backwards(value)) == digest(json.loads(json.dumps(value)))
    assert len(digest(value)) == 10
    assert set(digest(value)) <= set("0123456789abcdef")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {"lr": [math.nan]}])
def test_what_json_lacks_has_no_digits(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest(value)
