import sys
from pathlib import Path
from typing import Any

import pytest

from xvol import branch_class, branch_names, branch_options, branches, count_params, register_branch
from xvol.branches import BRANCHES
from xvol.branches.conv import Conv
from xvol.branches.pssa import PSSA


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branches, "_own", dict(branches._own))


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
        "mix_kernel": 1,
        "norm": "batch",
        "triton": False,
    }


def test_each_branch_has_a_row_in_the_docs_with_its_parameters() -> None:
    page = (Path(__file__).parents[3] / "docs" / "branches.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line.split("|")[-2].strip() for line in page.splitlines() if line.startswith("| `")}
    counted = {name: f"{count_params(branch_class(name)(64, 64)):,}" for name in BRANCHES}
    assert rows == counted


def test_unknown_branch_has_near_matches() -> None:
    with pytest.raises(
        ValueError, match=r"no branch is named 'psa': did you mean 'pssa'.*\? Allowed: .*conv, .*, and \d+ more"
    ):
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


def test_branches_of_installed_packages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package names its module as an entry point; whoever asks for a branch gets it, without importing it."""
    (tmp_path / "their_branch.py").write_text(
        "from xvol import register_branch\n"
        "from xvol.branches.conv import Conv\n"
        "@register_branch('theirs')\n"
        "class Theirs(Conv): ...\n"
    )
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[xvol.branches]\ntheirs = their_branch\n")
    monkeypatch.syspath_prepend(tmp_path)
    branches._load_entry_points.cache_clear()
    assert branch_class("theirs").__name__ == "Theirs"
    assert "theirs" in branch_names()

    (tmp_path / "their_branch.py").write_text("import no_such_module\n")
    sys.modules.pop("their_branch")
    branches._own.pop("theirs")
    branches._load_entry_points.cache_clear()
    with pytest.raises(ValueError, match=r"entry point 'theirs'.*no_such_module"):
        branch_class("theirs")
    branches._load_entry_points.cache_clear()


def test_each_branch_of_the_table_calls_itself_so() -> None:
    assert {name: branch_class(name).name for name in BRANCHES} == dict(zip(BRANCHES, BRANCHES, strict=True))
