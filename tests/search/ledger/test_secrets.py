from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.ledger.secrets import MASK, find_secret, is_secret_name, mask, mask_logs, masked_tree, note_variables

SECRET = "hunter2horse"
# what a password may look like in a URL: no white space, and an '@' only where another one follows
URL_PASSWORD = st.text("abcXYZ019.,:;!*$%&+=~@#?_-{}", min_size=6, max_size=16).filter(
    lambda text: not text.startswith(("***", "${"))
)
WORD = st.text("abcXYZ019.:;!%&+=~@#?_-", min_size=6, max_size=16)


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:{SECRET}@host/name",
        f"postgresql+psycopg2://me:{SECRET}@host:5432/name?sslmode=require",
        f"postgresql://me@corp.example:{SECRET}@host/name",
        f"postgresql://me:x@{SECRET}@host/name",
        f"postgresql://me:x:{SECRET}@host/name",
        f"postgresql://me:{SECRET}:y/z@host/name",
        f"redis://:{SECRET}@host:6379/0",
        f"hydra.sweeper.storage='postgresql://me:{SECRET}@host/name'",
        f"two: a://b:{SECRET}@c and d://e:{SECRET}@f",
        f"sqlite:///x.db?password={SECRET}",
        f"sqlite:///x.db?user=me&api_key={SECRET}&x=1",
        f"https://host/?token={SECRET}",
        f"https://host/?access_token={SECRET}",
        f"wandb_api_key={SECRET}",
        f"WANDB_API_KEY: {SECRET}",
        f"tracker.api_key={SECRET}",
        f"password = '{SECRET}'",
        f'db.passwd="{SECRET}"',
        f"db.password='{SECRET} with blanks'",
        f"db.password='correct horse, {SECRET}'",
        f"{{'password': '{SECRET}'}}",
        f'{{"api_key": "{SECRET}"}}',
        f"secrets: {SECRET}",
        f"credential={SECRET}",
        f"aws_secret_access_key={SECRET}",
        f"api-key={SECRET}",
    ],
)
def test_a_secret_is_masked_and_nothing_of_it_is_left(text: str) -> None:
    assert find_secret(text)
    assert SECRET not in mask(text)
    assert MASK in mask(text)
    assert mask(mask(text)) == mask(text)
    assert not find_secret(mask(text))


def test_what_stands_around_a_secret_stays() -> None:
    assert mask(f"storage=postgresql://me:{SECRET}@host/name") == f"storage=postgresql://me:{MASK}@host/name"
    assert (
        mask(f"cannot open sqlite:///x.db?password={SECRET}&a=1") == f"cannot open sqlite:///x.db?password={MASK}&a=1"
    )
    assert mask(f"tracker.api_key={SECRET}") == f"tracker.api_key={MASK}"


@pytest.mark.parametrize(
    "text",
    [
        "placement.policy=stage3.*",
        "placement.policy=stage[2-4].last",
        "placement.at.stage3=conv+pssa",
        "branch.options.pssa.embed_ratio=0.25",
        "backbone.name=vit_tiny_patch16_224",
        "token_count=3",
        "+backbone.kwargs.class_token=false",
        "+backbone.kwargs.num_prefix_tokens=1",
        "+backbone.kwargs.reg_tokens=4",
        "hydra.sweeper.storage=sqlite:////home/me/a.db",
        "hydra.sweeper.storage=postgresql://me@host/name",
        "hydra.sweeper.storage=postgresql://me:${oc.env:PGPASSWORD}@host/name",
        "hydra.sweeper.storage=postgresql://host:5432/name",
        "sqlite:///x.db?password=${oc.env:PASSWORD}",
        "db.password=${oc.env:PGPASSWORD}",
        "tracker.entity=me@corp.example",
        "data.path=/data/me@work:1/images",
        "train.lr=tag(log,interval(1e-3,1))",
        "see https://hydra.cc/docs/1.2/advanced/override_grammar/basic",
        "http://localhost:8080",
        "key=value",
        "seed=0",
        "",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert mask(text) == text
    assert not find_secret(text)


@given(
    URL_PASSWORD, st.sampled_from(["me", "", "me@corp.example", "a.b-c"]), st.sampled_from(["", "/db", ":5432/db?x=1"])
)
def test_no_password_of_a_url_is_left(password: str, user: str, rest: str) -> None:
    text = f"cannot open postgresql+x://{user}:{password}@host{rest} today"
    assert mask(text) == f"cannot open postgresql+x://{user}:{MASK}@host{rest} today"
    assert mask(mask(text)) == mask(text)


@given(
    WORD.filter(lambda text: not text.startswith(("***", "${"))),
    st.sampled_from(["password=", "api_key: ", "?secret="]),
)
def test_no_assigned_secret_is_left(secret: str, head: str) -> None:
    if head.startswith("?"):
        secret = secret.replace("&", "")
    assert mask(f"begin {head}{secret} end") == f"begin {head}{MASK} end"


@given(st.lists(st.sampled_from([*"ab:/@?&=*'\" ,${}.", "password", "token", "://", MASK, "api_key="])).map("".join))
def test_masking_twice_is_masking_once(text: str) -> None:
    assert mask(mask(text)) == mask(text)
    assert not find_secret(mask(text))


def test_the_value_of_a_secret_variable_is_masked_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    assert mask(f"the server refused {SECRET}.") == f"the server refused {MASK}."
    assert masked_tree({"train": {"opt": [f"x{SECRET}"]}}) == {"train": {"opt": [f"x{MASK}"]}}
    monkeypatch.setenv("WANDB_API_KEY", "ab")  # too short to be one, and to be found by chance
    assert mask("a table") == "a table"
    for name in ("DB_PASS", "PGPASS", "GITHUB_PAT", "REGISTRY_AUTH", "MY_SECRET_KEY"):
        monkeypatch.setenv(name, f"{SECRET}{name}")
        assert mask(f"x {SECRET}{name}") == f"x {MASK}"


def test_the_value_of_any_variable_that_the_config_takes_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "LABORATORY": "correcthorse",
        "ENTITY_A": "battery",
        "FOLDER": "staple9",
        "HOME": "/home/me",
        "DATASET": "cifar10",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    note_variables({"tracker": {"entity": "${oc.env:LABORATORY}-x", "tags": ["${oc.env:ENTITY_A,none}"]}})
    note_variables(["+backbone.kwargs.url=${oc.env:FOLDER}", "data.root=${oc.env:HOME}/data"])
    note_variables({"data": {"name": "${oc.env:DATASET}"}, "tracker": {"project": "${oc.env:HOME}"}})
    assert mask("correcthorse battery staple9") == f"{MASK} {MASK} {MASK}"
    assert mask("/home/me/data of cifar10") == "/home/me/data of cifar10"


def test_what_handlers_write_is_masked(caplog: pytest.LogCaptureFixture) -> None:
    mask_logs()
    mask_logs()
    logging.getLogger("xvol.somewhere").warning("DB_PASS=%s is wrong", SECRET)
    assert SECRET not in caplog.text
    assert f"DB_PASS={MASK} is wrong" in caplog.text


LONG = "0123456789abcdefghijABCDEFGHIJ012345"


@pytest.mark.parametrize(
    "key",
    [
        f"ghp_{LONG}",
        f"gho_{LONG}",
        f"github_pat_11ABCDEFG0{LONG}_{LONG}",
        f"hf_{LONG}",
        f"sk-{LONG}",
        f"sk-proj-{LONG}",
        "AKIAIOSFODNN7EXAMPLE",
        "xoxb-123456789012-abcdef",
        f"glpat-{LONG[:20]}",
        "0123456789abcdef0123456789abcdef01234567",
    ],
)
def test_a_key_of_a_known_form_is_masked_wherever_it_stands(key: str) -> None:
    assert mask(f"the server said: {key}, no") == f"the server said: {MASK}, no"
    assert masked_tree({"note": [key]}) == {"note": [MASK]}
    assert find_secret(f"tracker.entity={key}")


STRONG = [
    "password",
    "db_password",
    "secret",
    "secret_key",
    "secretKey",
    "SECRET_KEY",
    "api_key",
    "apiKey",
    "aws_access_key",
    "ssh_key",
]
WEAK = ["DB_PASS", "PGPASS", "PAT", "GITHUB_PAT", "AUTH", "http_auth", "db.pass", "authToken", "HF_TOKEN", "my_pwd"]
INNOCENT = [
    *(
        "author",
        "authors",
        "authority",
        "path",
        "pattern",
        "patience",
        "patience_minutes",
        "patch_size",
        "compass",
        "bypass",
        "passes",
    ),
    *(
        "monkey",
        "keyboard",
        "key",
        "seed_key",
        "keys",
        "token_count",
        "tokenizer",
        "num_pass_steps",
        "secretary",
        "spatial",
        "pathology",
    ),
    *(
        "train.momentum",
        "data.path",
        "pool",
        "pass_through",
        "auth_mode",
        "patient",
        "hidden",
        "bandpass",
        "arch_hash",
        "sort_key",
    ),
]


@given(st.sampled_from(STRONG + WEAK), st.text("abcXYZ%!+-_/", min_size=6, max_size=20))
def test_a_value_behind_a_name_of_a_secret_is_masked(name: str, value: str) -> None:
    assert is_secret_name(name)
    assert mask(f"begin {name}={value} end") == f"begin {name}={MASK} end"
    assert mask(f'{{"{name}": "{value}"}}') == f'{{"{name}": "{MASK}"}}'
    assert mask(f"error: {name}={value}") == f"error: {name}={MASK}"
    assert masked_tree({"a": [{name: value}]}) == {"a": [{name: MASK}]}


@given(st.sampled_from(INNOCENT), st.text("abcxyz", min_size=1, max_size=20))
def test_innocent_names_are_left_alone(name: str, value: str) -> None:
    assert not is_secret_name(name)
    for text in (f"begin {name}={value} end", f"{name}: {value}", f'"{name}": "{value}"'):
        assert mask(text) == text
    assert masked_tree({name: value}) == {name: value}


@pytest.mark.parametrize(
    "text",
    [
        "second pass: three images",
        "auth=none",
        "class_token=false",
        "commit 0123456789abcdef0123456789abcdef01234567",
        "hf-hub:timm/resnet50@0123456789abcdef0123456789abcdef01234567",
        "sk-learn-the-whole-story-of-it",
        "hf_hub_download",
        "checksum: 0123456789abcdef0123456789abcdef01234567",
    ],
)
def test_what_only_looks_like_a_secret_is_left_alone(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize(
    "key",
    ["password", "passwd", "api_key", "apikey", "WANDB_API_KEY", "token", "secret", "db_password", "access_tokens"],
)
def test_a_tree_is_masked_by_its_keys(key: str) -> None:
    tree = {"db": [{key: SECRET, "user": "me"}], "name": "plain"}
    assert masked_tree(tree) == {"db": [{key: MASK, "user": "me"}], "name": "plain"}


def test_a_password_of_digits_is_one_too() -> None:
    assert masked_tree({"password": 12345678}) == {"password": MASK}


def test_a_tree_keeps_what_is_no_secret() -> None:
    tree: dict[str, Any] = {
        "password": "${oc.env:PGPASSWORD}",
        "api_key": None,
        "secret": "",
        "backbone": {"kwargs": {"class_token": False, "num_prefix_tokens": 1}},
        "lr": 0.3,
        "stages": [1, None, True, "stage3.*"],
    }
    assert masked_tree(tree) == tree


def test_a_tree_is_masked_by_the_look_of_its_texts_and_not_changed_itself() -> None:
    tree = {"sweeper": {"storage": f"postgresql://me:{SECRET}@host/name"}, "overrides": (f"x.password={SECRET}",)}
    before = repr(tree)
    masked = masked_tree(tree)
    assert masked == {"sweeper": {"storage": f"postgresql://me:{MASK}@host/name"}, "overrides": [f"x.password={MASK}"]}
    assert repr(tree) == before
