from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.ledger import provenance as module
from search.ledger.provenance import Sources, checkout_of, commit_of, is_installed, provenance


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit and one tracked file."""
    checkout_of.cache_clear()
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "tracked").write_text("1")
    who = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
    for command in (["init", "-q"], ["add", "tracked"], [*who, "commit", "-q", "--no-gpg-sign", "-m", "one"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True, capture_output=True)
    return folder


def test_a_commit_says_whether_the_code_differs_from_it(repository: Path, tmp_path: Path) -> None:
    command = ["git", "-C", str(repository), "rev-parse", "HEAD"]
    head = subprocess.run(command, check=True, capture_output=True, text=True).stdout[:12]
    tracked, untracked, elsewhere = repository / "tracked", repository / "untracked", tmp_path / "elsewhere"
    untracked.write_text("2")
    assert commit_of(repository, "tracked") == head
    assert commit_of(repository, "tracked", [tracked, elsewhere]) == head
    assert commit_of(repository, "tracked", [tracked, untracked]) == f"{head}+changes", "what is used is not committed"
    tracked.write_text("2")
    assert commit_of(repository, "tracked") == head, "a process runs what it found when it began"
    checkout_of.cache_clear()
    assert commit_of(repository, "tracked") == f"{head}+changes"


def test_a_file_that_git_does_not_track_has_no_commit(repository: Path) -> None:
    (repository / "untracked").write_text("2")
    assert commit_of(repository, "untracked") is None  # an environment inside of another project's checkout


def test_outside_of_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of(tmp_path, "tracked") is None
    checkout_of.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert commit_of(tmp_path, "tracked") is None


def test_facts_are_plain_and_name_the_versions() -> None:
    facts = provenance()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["versions"]["torch"] == metadata.version("torch")
    assert facts["versions"].keys() == set(module.PACKAGES)
    assert facts["cores"] >= 1
    assert "/" not in facts["executable"]  # no user's folders in what is published


def test_a_package_that_is_not_installed_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("no-such-package-here",))
    assert provenance.__wrapped__()["versions"] == {"no-such-package-here": None}


LATER = time.time() + 1e6
REPOSITORY = Path(__file__).parents[3]
Files = Callable[..., str]
_names = (f"package_of_test_{number}" for number in count())  # a name is looked up once in a process


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    """Writes files of a package that can be imported, and returns its name; `{p}` in them stands for it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def write(**files: str) -> str:
        made.append(next(_names))
        for name, text in {"__init__": "", **files}.items():
            path = tmp_path / made[-1] / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text).replace("{p}", made[-1]))
        return made[-1]

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] in made]:
        del sys.modules[name]


def digests(name: str, *roots: str) -> dict[str, str | None]:
    """Of what the roots import inside of the package, by the names inside."""
    found = Sources(LATER).digests([f"{name}.{root}" for root in roots], lambda module: module.startswith(name))
    return {module.removeprefix(f"{name}."): value for module, value in found.items()}


@pytest.mark.parametrize("file", sorted(REPOSITORY.glob("xvol/**/*.py")), ids=lambda path: path.name)
def test_comments_docstrings_and_layout_change_nothing(file: Path, package: Files) -> None:
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            node.body[0].value.value = "another text"  # type: ignore[attr-defined]
    values = [digests(package(a=text), "a")["a"] for text in (file.read_text(), ast.unparse(tree))]
    assert values[0] is not None
    assert values[0] == values[1]


CODE = """
class Branch:
    scale = 1.0

    def forward(self, x, *, heads: int = 2):
        y = x * self.scale if heads else -x
        return f"{y:.2f}", [y for _ in range(3)], b"4", "a text", None
"""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(st.data())
def test_any_other_code_changes_it(package: Files, data: st.DataObject) -> None:
    old = data.draw(
        st.sampled_from(["1.0", "= 2", "*", "scale", "x,", ".2f", "(3)", 'b"4"', "a text", "None", "Branch"])
    )
    new = data.draw(st.sampled_from(["1", "= 3", "/", "gain", "x, z,", ".3f", "(4)", 'b"5"', "b text", "...", "Other"]))
    changed = CODE.replace(old, new)
    try:
        same = ast.dump(ast.parse(changed)) == ast.dump(ast.parse(CODE))
    except SyntaxError:
        return
    assert (digests(package(a=CODE), "a") == digests(package(a=changed), "a")) == same


FOLLOWED = {
    "a name of a module": "from {p}.b import VALUE",
    "a module": "import {p}.b",
    "from here": "from .b import VALUE",
    "a module from here": "from . import b",
    "everything": "from {p}.b import *",
    "inside of a function": "def f():\n    from {p} import b",
    "where only types are checked": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import {p}.b as c",
}


@pytest.mark.parametrize("case", FOLLOWED)
def test_what_a_module_imports_counts_and_nothing_else(package: Files, case: str) -> None:
    name = package(a=FOLLOWED[case], b="from .c import d\nVALUE = 1", c="d = 1", unused="x = 1")
    assert digests(name, "a").keys() == {"a", "b", "c", "__init__"}


@pytest.mark.parametrize(
    "use", ["from {p} import VALUE", "import {p} as q\nx = q.VALUE", "import {p}.sub\nx = {p}.VALUE"]
)
def test_what_a_package_hands_on_is_followed_to_where_it_is_from(package: Files, use: str) -> None:
    files = {"a": use, "__init__": "from .b import VALUE\nfrom .unused import X", "b": "VALUE = 1", "unused": "X = 1"}
    name = package(**files, sub__in____init__="")
    assert "b" in digests(name, "a")
    found = Sources(LATER).digests([f"{name}.a"], lambda module: module.startswith(f"{name}."))
    assert found.keys() >= {f"{name}.b"}
    assert f"{name}.unused" not in found, "where the package itself is none of those that count"


def test_a_package_that_loads_lazily_is_followed(package: Files) -> None:
    lazy = "import importlib\ndef __getattr__(name):\n    return getattr(importlib.import_module('{p}.b'), name)"
    name = package(__init__=lazy, a="from {p} import Made", b="class Made: ...", unused="")
    importlib.import_module(f"{name}.a")
    assert digests(name, "a").keys() == {"a", "b", name, "__init__"}


def test_a_package_that_cannot_load_what_is_not_used_does_no_harm(package: Files) -> None:
    lazy = "def __getattr__(name):\n    raise ImportError(name)"
    name = package(__init__=lazy, a="def unused():\n    from {p} import missing")
    importlib.import_module(f"{name}.a")
    assert digests(name, "a").keys() == {"a", name, "__init__"}


def test_of_a_package_that_is_passed_through_only_what_it_does_counts(package: Files) -> None:
    texts = (
        "from . import b",
        "from . import b, c\n__all__ = ['c']",
        "import warnings\nwarnings.simplefilter('ignore')",
    )
    one, more, other = (digests(package(__init__=text, a="", b="", c=""), "a") for text in texts)
    assert one == more
    assert one != other


def test_a_file_that_changed_since_the_process_began_is_not_known(package: Files) -> None:
    name = package(a="from . import b", b="")
    began = time.time() - 10
    assert set(Sources(began).digests([f"{name}.a"], lambda module: module.startswith(name)).values()) == {None}


def test_what_has_no_source_is_not_known(package: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    typed_in = "typed_in_of_test"
    monkeypatch.setitem(sys.modules, typed_in, type(sys)(typed_in))
    found = Sources(LATER).digests([typed_in, "no_such_module_of_test"], lambda module: True)
    assert found == {typed_in: None, "no_such_module_of_test": None}


def test_compiled_code_counts_by_its_bytes(package: Files, tmp_path: Path) -> None:
    values = []
    for content in (b"\0one", b"\0two", b"\0one"):
        name = package()
        (tmp_path / name / "a.py").write_bytes(content)
        values.append(digests(name, "a")["a"])
    assert values[0] == values[2] != values[1]
    assert None not in values


def test_what_is_read_once_is_not_read_again(package: Files, tmp_path: Path) -> None:
    name = package(a="x = 1")
    sources = Sources(LATER)

    def read(sources: Sources) -> dict[str, str | None]:
        return sources.digests([f"{name}.a"], lambda module: module.startswith(name))

    before = read(sources)
    (tmp_path / name / "a.py").write_text("x = 2")
    assert read(sources) == before, "this process runs what it has loaded"
    assert read(Sources(LATER)) != before


def test_a_checkout_is_not_taken_for_installed(package: Files) -> None:
    assert all(map(is_installed, ("torch.nn", "json", "no_such_module_of_test")))
    assert not is_installed(package())
