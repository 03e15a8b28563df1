from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import types
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import xvol
from search.config import typed
from search.fingerprint import recipe_hash
from search.ledger.provenance import Checkout
from search.trial import content as module
from search.trial.content import Content, changes, content_of
from search.trial.untrained import prepare

from .conftest import Small

OPERATOR = {"block", "branches.base", "fold", "placement", "probe", "siting", "surgery"}
TRIAL = {"run", "train", "optim", "measure", "base", "classify", "model", "images", "loaders"}


def network(backbone: str, use: str = "") -> nn.Module:
    model = timm.create_model(backbone, num_classes=10)
    assert isinstance(model, nn.Module)
    if use:
        chosen = xvol.select(xvol.sites(model), "stage3.0")
        xvol.convert(model, {site.fqn: xvol.BlockSpec.make(use.split("+")) for site in chosen})
    return model


def code(backbone: str, use: str = "") -> dict[str, str]:
    return dict(content_of(network(backbone, use), backbone, "").code)


def modules(*roots: str) -> set[str]:
    return {name.split(".", 2 if name.startswith("search") else 1)[-1] for name in module._closure(frozenset(roots))}


@pytest.mark.slow
def test_the_code_of_an_arm_is_that_of_its_own_branches_and_backbone() -> None:
    assert code("resnet18").keys() == {"operator", "trial"}, "timm's own code is told by its version"
    assert code("xvol_proxy_resnet", "conv+pssa").keys() == {
        *("operator", "trial", "backbone", "branch conv", "branch pssa")
    }
    assert code("xvol_resnet18.stage3").keys() == code("xvol_proxy_resnet", "conv+pssa").keys()
    one, other = code("resnet18", "conv+pssa"), code("resnet18", "pssa_inner")
    assert one["operator"] == other["operator"]
    assert one["branch pssa"] != other["branch pssa_inner"]


def test_the_modules_behind_each_part() -> None:
    assert modules(*module.OPERATOR) >= OPERATOR
    assert not any(re.search("_cli|reference|pssa|conv|allowed", name) for name in modules(*module.OPERATOR))
    assert modules(*module.TRIAL, "search.tasks.classify") >= TRIAL
    assert not modules(*module.TRIAL) & {"refuse", "content", "cifar10", "config", "cache"}
    assert {"branches.pssa", "branches.attention"} <= modules("xvol.branches.pssa")
    assert not modules("xvol.branches.pssa") & {"branches.rivals", "branches.acmix", "branches.inner"}


def test_every_module_of_it_can_be_read() -> None:
    for roots in (module.OPERATOR, module.TRIAL, ("xvol.branches.pssa",), ("xvol.zoo",)):
        assert None not in module._closure(frozenset(roots)).values()


def test_code_without_a_source_is_equal_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = types.ModuleType("typed_in_of_test_content")
    exec("from torch import nn\nclass Layer(nn.Identity): ...", made.__dict__)
    monkeypatch.setitem(sys.modules, made.__name__, made)
    model = network("resnet18")
    model.fc = made.Layer()
    one, other = (content_of(model, "resnet18", "") for _ in range(2))
    assert one.digest != other.digest
    assert {name for name in one.code if one.code[name] != other.code[name]} == {"backbone"}
    assert changes(one.plain, other.plain) == ["code of backbone cannot be known"]


def test_a_class_of_a_script_counts_and_that_of_a_session_is_equal_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"]
    layer = type("Layer", (nn.Identity,), {"__module__": "__main__"})
    assert module._module(layer) == "__main__ of a session", (
        "it is not in the script, but sent here from another process"
    )
    monkeypatch.setattr(main, "Layer", layer, raising=False)
    assert module._module(layer) == "__main__"
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert module._module(layer) == "__main__ of a session"


def test_a_package_of_its_own_repository_has_its_own_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    package = tmp_path / "own_of_test_content"
    package.mkdir()
    for name in ("__init__.py", "branch.py", "later.py"):
        (package / name).touch()
    who = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
    added = ["add", f"{package.name}/__init__.py", f"{package.name}/branch.py"]
    for command in (["init", "-q"], added, [*who, "commit", "-q", "--no-gpg-sign", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True, capture_output=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    branch, later = f"{package.name}.branch", f"{package.name}.later"
    _, commits = module._commits(frozenset({"xvol.block", branch}))
    assert commits.keys() == {package.name}
    assert re.fullmatch("[0-9a-f]{12}", commits[package.name])
    _, commits = module._commits(frozenset({"xvol.block", branch, later}))
    assert commits[package.name].endswith("+changes"), "a module in use is not tracked"


def test_an_untracked_module_in_use_makes_the_commit_dirty(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(module.__file__).parents[2]
    checkout = Checkout(here, "0123456789ab", changed=False, tracked=frozenset({"search/ledger/provenance.py"}))
    monkeypatch.setattr("search.ledger.provenance.checkout_of", lambda folder: checkout)
    monkeypatch.setattr(module, "is_installed", lambda name: False)
    monkeypatch.setattr(module, "file_of", lambda name: here / "search" / "ledger" / f"{name}.py")
    assert module._commits.__wrapped__(frozenset({"provenance"}))[0] == "0123456789ab"
    assert module._commits.__wrapped__(frozenset({"provenance", "scratch"}))[0] == "0123456789ab+changes"


MADE: dict[str, Any] = {
    "versions": {"xvol": "1", "torch": "2", "timm": "3"},
    "code": {"trial": "a", "branch pssa": "b"},
    "data": "c",
}
DIFFER: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing": ({}, []),
    "a version": ({"versions": {"xvol": "1", "torch": "1", "timm": "3"}}, ["torch was 1, it is 2"]),
    "a branch": ({"code": {"trial": "a", "branch pssa": "x"}}, ["code of branch pssa changed since"]),
    "images": ({"data": "x"}, ["images changed since"]),
    "weights": ({"code": {**MADE["code"], "weights": "x"}}, ["the file of weights it starts from changed since"]),
    "both": (
        {"data": "x", "code": {"trial": "x", "branch pssa": "b"}},
        ["code of trial changed since", "images changed since"],
    ),
    "an old result": ({"code": None, "data": None}, ["its code is not on record"]),
}


@pytest.mark.parametrize("case", DIFFER)
def test_what_differs_is_said_in_words(case: str) -> None:
    earlier, said = DIFFER[case]
    assert changes({**MADE, **earlier}, MADE) == said


def test_digests_follow_what_counts_and_not_the_commit() -> None:
    one = Content({"torch": "1"}, {"trial": "a"}, "b", "1234567890ab", {"mine": "abcdef123456"})
    assert one.digest == Content({"torch": "1"}, {"trial": "a"}, "b").digest
    assert one.code_digest == Content({"torch": "2"}, {"trial": "a"}, "c").code_digest
    others = (
        ({"torch": "2"}, {"trial": "a"}, "b"),
        ({"torch": "1"}, {"trial": "b"}, "b"),
        ({"torch": "1"}, {"trial": "a"}, "c"),
    )
    assert len({one.digest, *(Content(*other).digest for other in others)}) == 4


def test_a_file_of_weights_counts_by_what_is_in_it(small: Small, tmp_path: Path) -> None:
    here, there = tmp_path / "here.pt", tmp_path / "there.pt"
    model = prepare(typed(small("seed=3"))).model
    torch.save(model.state_dict(), here)
    shutil.copy(here, there)
    config = [typed(small(f"backbone.weights={path}")) for path in (here, there)]
    content = [prepare(each).content for each in config]
    assert content[0].digest == content[1].digest
    recipes = [recipe_hash(asdict(each), anywhere=True) for each in config]
    assert recipes[0] == recipes[1]
    torch.save(prepare(typed(small("seed=4"))).model.state_dict(), there)
    os.utime(there, ns=(0, 0))
    assert changes(content[0].plain, prepare(config[1]).content.plain) == [
        "the file of weights it starts from changed since"
    ]


def test_a_file_that_blocks_begin_with_counts_by_what_is_in_it_too(small: Small, tmp_path: Path) -> None:
    placed = "placement.policy=stage3"
    for at, seed in (("here", 3), ("other", 4)):
        torch.save(prepare(typed(small(f"seed={seed}", placed))).model.state_dict(), tmp_path / f"{at}.pt")
    shutil.copy(tmp_path / "here.pt", tmp_path / "there.pt")
    made = [
        prepare(typed(small(placed, f"backbone.checkpoint={tmp_path / at}.pt"))) for at in ("here", "there", "other")
    ]
    recipes = {recipe_hash(asdict(each.config), anywhere=True) for each in made}
    one, same, other = (each.content.code["checkpoint"] for each in made)
    assert (len(recipes), one) == (1, same)
    assert one != other
    assert recipe_hash(asdict(made[0].config)) != recipe_hash(asdict(typed(small(placed))))
