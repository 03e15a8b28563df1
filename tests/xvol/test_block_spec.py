import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xvol import BlockSpec, XVolution2d, branch_class, branch_names, branch_options


def test_equal_specs_build_equal_blocks() -> None:
    """Order, spelt-out defaults and whole numbers for floats make no difference."""
    spec = BlockSpec()
    assert spec == BlockSpec.make(["pssa", "conv"], {"pssa": {"rank": 1, "embed_ratio": 1}, "conv": {}}, gamma=0)
    assert hash(spec) == hash(BlockSpec.make(("pssa", "conv")))
    assert BlockSpec.make(["pssa"], gamma=1.0) == BlockSpec(("pssa",))
    assert BlockSpec.make(["conv"], gamma=0.5) == BlockSpec(("conv",))
    assert BlockSpec.make("pssa") == BlockSpec(("pssa",))
    assert BlockSpec(("pssa",), {"pssa": {"rank": 2}}) == BlockSpec.make(["pssa"], {"pssa": {"rank": 2}})  # type: ignore[arg-type]
    assert spec != BlockSpec.make(gamma=1.0)
    assert spec != BlockSpec.make(options={"pssa": {"rank": 2}})


def test_canonical_spells_out_every_default() -> None:
    spec = BlockSpec.make(options={"pssa": {"embed_ratio": 0.25}})
    assert spec.canonical() == {
        "branches": ["conv", "pssa"],
        "options": {
            "conv": {"kernel": None},
            "pssa": {
                "rank": 1,
                "embed_ratio": 0.25,
                "shift": 1,
                "directions": 8,
                "border": "zero",
                "q_bias": False,
            },
        },
        "gamma": 0.0,
    }
    assert BlockSpec(("pssa",)).canonical()["gamma"] == 1.0
    assert str(spec) == "conv+pssa(embed_ratio=0.25)"
    assert str(BlockSpec.make(["pssa"], gamma=0.5)) == "pssa gamma=0.5"


def test_a_spec_that_keeps_the_norm_is_another_block() -> None:
    """What was stored before there was the choice is a block that takes it over."""
    keeps = BlockSpec.make(keeps_norm=True)
    assert keeps != BlockSpec()
    assert "keeps_norm" not in BlockSpec().canonical()
    assert BlockSpec.make(**keeps.canonical()) == keeps
    assert str(keeps) == "conv+pssa keeps_norm=True"


def test_options_that_came_later_leave_stored_specs_alone() -> None:
    """At its default a later option is not spelt out, so no hash made before it changes; else it is."""
    stored = {"rank": 1, "embed_ratio": 1.0, "shift": 1, "directions": 8, "border": "zero", "q_bias": False}
    assert (
        BlockSpec.make(["pssa"], {"pssa": {"mix_kernel": 1, "norm": "batch"}}).canonical()["options"]["pssa"] == stored
    )
    changed = BlockSpec.make(["pssa"], {"pssa": {"mix_kernel": 3, "norm": "none"}})
    assert changed.canonical()["options"]["pssa"] == stored | {"mix_kernel": 3, "norm": "none"}
    assert BlockSpec.make(**changed.canonical()) == changed
    for name in branch_names():
        assert branch_class(name).later_options <= set(branch_options(name))


@pytest.mark.parametrize(
    "options",
    [
        {"pssa": {"mix_kernel": 3}},
        {"pssa_inner": {"value_ratio": 0.5, "heads": 2, "mix_kernel": 5}},
        {"linear_global": {"norm": "none", "heads": 2}},
        {"acmix": {"position": True, "border": "reflect"}},
    ],
    ids=str,
)
def test_every_option_reaches_its_branch(options: dict[str, dict[str, Any]]) -> None:
    (name, values), *_ = options.items()
    branch = XVolution2d(8, 8, spec=BlockSpec.make(["conv", name], options)).branches[name]
    plain = XVolution2d(8, 8, spec=BlockSpec.make(["conv", name])).branches[name]
    assert values.get("norm", "batch") == branch.norm_kind
    assert "norm" in values or str(branch) != str(plain)


@given(
    branches=st.lists(st.sampled_from(["conv", "pssa"]), min_size=1, max_size=2, unique=True),
    rank=st.integers(1, 9),
    ratio=st.floats(0.01, 4),
    q_bias=st.booleans(),
    gamma=st.none() | st.floats(-2, 2),
)
def test_a_spec_is_rebuilt_from_its_canonical_form(
    branches: list[str], rank: int, ratio: float, q_bias: bool, gamma: float | None
) -> None:
    given_options = {"pssa": {"rank": rank, "embed_ratio": ratio, "q_bias": q_bias}} if "pssa" in branches else {}
    spec = BlockSpec.make(branches, given_options, gamma)
    canonical: dict[str, Any] = json.loads(json.dumps(spec.canonical()))
    assert BlockSpec.make(**canonical) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"branches": ["psa"]}, "no branch is named 'psa': did you mean 'pssa'"),
        ({"branches": []}, "at least one branch"),
        ({"branches": ["conv", "conv"]}, "'conv' is named twice"),
        (
            {"options": {"pssa": {"rnak": 2}}},
            "'pssa' has no option 'rnak': did you mean 'rank'\\? Allowed: rank, triton, shift",
        ),
        ({"branches": ["conv"], "options": {"pssa": {}}}, "'pssa', which the block lacks"),
        ({"options": {"pssa": {"rank": 0}}}, "rank=0 must be a whole number"),
        ({"options": {"pssa": {"border": "same"}}}, "border='same' must be one of"),
        ({"options": {"pssa": {"mix_kernel": 2}}}, "pssa: mix_kernel=2 must be an odd whole number"),
        (
            {"options": {"pssa": {"norm": "layer"}}},
            "norm='layer' must be one of 'batch', 'none': .* folds into no conv",
        ),
        ({"gamma": float("nan")}, "gamma=nan must be a finite number"),
        ({"gamma": "0"}, "gamma='0' must be a finite number"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockSpec.make(**arguments)
