"""What makes a result beside its settings: the code that builds and trains this network, and the images as read."""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import xvol  # noqa: F401  # before timm, where torch is a CPU build: see xvol/timm_hook.py

# isort: split
import timm
from torch import nn

from search.ledger.files import digest
from search.ledger.provenance import Sources, code_commit, commit_of, file_of, is_installed, provenance
from search.ledger.result import TrialResult
from xvol import XVolution2d

VERSIONS = ("xvol", "torch", "timm")
BY_VERSION = ("torch", "timm", "torchvision")  # their code is told by their versions
WHERE_USED = "torchvision"  # whose version counts where layers are of it
OPERATOR = ("xvol.surgery", "xvol.placement", "xvol.probe")  # what builds, places, fuses, counts any block
TRIAL = ("search.trial.run",)
# These refuse, word, copy or fetch, and make no figure; what a source of images comes to is in the digest of the images.
NO_FIGURES = frozenset(
    [
        *("xvol.allowed", "xvol", "xvol.branches", "search.data", "search.tasks", "search.trial"),
        *("search.trial.refuse", "search.trial.content", "search.data.config", "search.data.cache"),
    ]
)
UNKNOWN = "unknown"
_sources = Sources()


@dataclass(frozen=True)
class Content:
    """What two results must agree in, beside their settings, for one to stand for the other.

    Attributes:
        versions: of packages, by name.
        code: digest of the source of each part: "operator", "trial", "backbone", and "branch NAME" of those in use; and of the
            files of "weights", and of the "root" or the "checkpoint" that it starts from.
        data: digest of the images and labels as they were read.
        commit: of this repository, with "+changes" where tracked files differ, or a module in use is not tracked.
        commits: the same of packages that lie in a repository of their own, by name.
    """

    versions: Mapping[str, str | None]
    code: Mapping[str, str]
    data: str
    commit: str | None = None
    commits: Mapping[str, str] = field(default_factory=dict)

    @property
    def code_digest(self) -> str:
        """Ten hexadecimal digits over all parts of the code."""
        return digest(dict(self.code))

    @property
    def plain(self) -> dict[str, Any]:
        """What counts, as plain values: see `on_record`."""
        return {"versions": dict(self.versions), "code": dict(self.code), "data": self.data}

    @property
    def digest(self) -> str:
        """Ten hexadecimal digits over what counts."""
        return digest(self.plain)


def content_of(
    model: nn.Module,
    backbone: str,
    data: str,
    learned_by: Iterable[type] = (),
    weights: str | None = None,
    root: str | None = None,
    checkpoint: str | None = None,
) -> Content:
    """What the network `model` is made by: the modules of its layers, with what they import of their own packages.

    Comments, docstrings and layout of code change nothing.

    Args:
        model: with its blocks in place.
        backbone: timm's name of it.
        data: digest of the images.
        learned_by: classes of the task and of evaluators that were added to it.
        weights: file that its plain network starts from.
        checkpoint: file of the trial that its network begins with, blocks and all; in a study another one for each arm and seed.
        root: file of the trained network, or of the training, that it goes on from.
    """
    operator = _closure(frozenset(OPERATOR))
    made_by = {"trial": {base for cls in learned_by for base in cls.__mro__}, **_layers(model, backbone)}
    roots = {part: {name for one in made if (name := _module(one)) is not None} for part, made in made_by.items()}
    roots["trial"].update(TRIAL)
    parts = {"operator": operator}
    for part, modules in roots.items():
        parts[part] = {name: value for name, value in _closure(frozenset(modules)).items() if name not in operator}
    code = {part: _value(modules) for part, modules in parts.items() if modules}
    for part, file in (("weights", weights), ("root", root), ("checkpoint", checkpoint)):
        if file is not None:
            code[part] = _file_digest(file, os.stat(file).st_mtime_ns)
    versions = provenance()["versions"]
    names = frozenset(name for modules in parts.values() for name in modules)
    used = {type(module).__module__.partition(".")[0] for module in model.modules()}
    told = (*VERSIONS, WHERE_USED) if WHERE_USED in used else VERSIONS
    return Content({name: versions.get(name) for name in told}, code, data, *_commits(names))


def on_record(result: TrialResult) -> dict[str, Any]:
    """What a result was made by: `Content.plain`, as far as it was written down."""
    made = result.provenance
    return {"versions": made.get("versions"), "code": made.get("code"), "data": result.data_digest}


def changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, what differs between two trials in what they were made by (`on_record`)."""
    said = []
    for name in (*VERSIONS, WHERE_USED):
        there, here = ((made.get("versions") or {}).get(name) for made in (earlier, now))
        if there != here:
            said.append(f"{name} was {there}, it is {here}")
    there, here = earlier.get("code") or {}, now.get("code") or {}
    for part in dict.fromkeys([*here, *there]) if there else ():
        if there.get(part) != here.get(part):
            unknown = here.get(part, "").startswith(UNKNOWN)
            files = {"weights": "the file of weights it starts from", "root": "the root it starts from"}
            files["checkpoint"] = "the trial whose weights it begins with"
            what = files.get(part, f"code of {part}")
            said.append(f"{what} {'cannot be known' if unknown else 'changed since'}")
    if earlier.get("data") != now.get("data"):
        said.append("images changed since")
    return said if there else ["its code is not on record"]


@cache
def _file_digest(path: str, _changed_at: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:10]


def _layers(model: nn.Module, backbone: str) -> dict[str, set[Any]]:
    """Classes (and the function that builds the backbone) whose code each part of a network is made by."""
    found: dict[str, set[Any]] = defaultdict(set)
    in_branches: set[nn.Module] = set()
    for block in model.modules():
        if isinstance(block, XVolution2d):
            for name, branch in block.branches.items():
                in_branches.update(branch.modules())
                found[f"branch {name}"].update(base for layer in branch.modules() for base in type(layer).__mro__)
    rest = {type(layer) for layer in model.modules() if layer not in in_branches}
    found["backbone"] = {timm.models.model_entrypoint(backbone), *(base for cls in rest for base in cls.__mro__)}
    return found


def _module(made: Any) -> str | None:
    """The module that a class or function is from; None where it is Python's, or told by a version."""
    name = made.__module__
    top = name.partition(".")[0]
    if top in ("__main__", "__mp_main__"):
        there = made.__qualname__.partition(".")[0] in vars(sys.modules[name])
        return name if there and not hasattr(sys, "ps1") else f"{name} of a session"  # which leaves no source
    return None if top in BY_VERSION or top in sys.stdlib_module_names else name


@cache
def _closure(roots: frozenset[str]) -> dict[str, str | None]:
    tops = {name.partition(".")[0] for name in roots} | {"xvol"}

    def follow(name: str) -> bool:
        top = name.partition(".")[0]
        if name in NO_FIGURES or top in BY_VERSION:
            return False
        if top == "search":
            return name == "search.slot" or name.startswith(("search.trial.", "search.tasks.", "search.data."))
        return top in tops or not is_installed(top)

    return _sources.digests(sorted(roots), follow)


def _value(modules: Mapping[str, str | None]) -> str:
    known = None not in modules.values()
    return digest(dict(modules)) if known else f"{UNKNOWN} {uuid.uuid4().hex}"  # equal to nothing


@cache
def _commits(names: frozenset[str]) -> tuple[str | None, dict[str, str]]:
    """The commit of this repository, and those of packages in others, of which `names` are the modules in use."""
    files: dict[str, list[Path]] = defaultdict(list)
    for name in sorted(names):
        file = file_of(name)
        if file is not None and not is_installed(name):
            files[name.partition(".")[0]].append(file)
    here = code_commit(file for used in files.values() for file in used)
    commits = {}
    for top, used in files.items():
        home = file_of(top)
        place = used[0].parent if home is None else home.parent
        commit = commit_of(place, used[0].relative_to(place).as_posix(), used)
        if commit is not None and top not in ("xvol", "search"):
            commits[top] = commit
    return here, {top: commit for top, commit in commits.items() if commit != here}
