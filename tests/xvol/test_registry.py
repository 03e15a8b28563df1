from typing import Any

import pytest

from xvol import branch_class, branch_names, branch_options, register_branch, registry
from xvol.branches.conv import Conv
from xvol.branches.pssa import PSSA


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_branches", dict(registry._branches))


def test_known_branches() -> None:
    assert {"conv", "pssa"} <= set(branch_names())
    assert list(branch_names()) == sorted(branch_names())
    assert branch_class("pssa") is PSSA
    assert branch_options("conv") == {"kernel": None}
    assert branch_options("pssa") == {
        "rank": 1,
        "embed_ratio": 1.0,
        "shift": 1,
        "directions": 8,
        "border": "zero",
        "q_bias": False,
    }


def test_unknown_branch_has_near_matches() -> None:
    with pytest.raises(ValueError, match=r"no branch is named 'psa': did you mean 'pssa'\? Allowed: conv, pssa"):
        branch_class("psa")
    with pytest.raises(ValueError, match=r"'convv'.*did you mean 'conv'"):
        branch_options("convv")


def test_a_new_branch_can_be_entered_once() -> None:
    class Mine(Conv):
        def __init__(self, in_chs: int, out_chs: int, *, loud: bool = True, **geometry: Any) -> None:
            super().__init__(in_chs, out_chs, **geometry)

    assert register_branch("mine")(Mine) is Mine
    assert branch_options("mine") == {"loud": True}
    with pytest.raises(ValueError, match="'mine' is registered already"):
        register_branch("mine")(Mine)


def test_what_is_no_branch_is_refused() -> None:
    with pytest.raises(TypeError, match="no subclass"):
        register_branch("mine")(dict)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="no Python identifier"):
        register_branch("my branch")(Conv)

    class Demanding(Conv):
        def __init__(self, in_chs: int, out_chs: int, *, loud: bool, **geometry: Any) -> None:
            super().__init__(in_chs, out_chs, **geometry)

    with pytest.raises(ValueError, match="option 'loud' has no default"):
        register_branch("mine")(Demanding)
