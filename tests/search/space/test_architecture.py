from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.space.architecture import Architecture, digest

PSSA = {"branches": ["conv", "pssa"], "options": {"conv": {}, "pssa": {"rank": 1, "embed_ratio": 0.25}}, "gamma": 0.0}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


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
