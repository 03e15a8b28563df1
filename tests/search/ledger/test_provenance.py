from __future__ import annotations

import json
import os
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from search.ledger import provenance as module
from search.ledger.provenance import checkout_of, commit_of, provenance


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
