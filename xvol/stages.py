"""Which stage and which block of a model a layer stands in, from `feature_info` and module structure, not from names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

_LISTS = (nn.Sequential, nn.ModuleList)


@dataclass(frozen=True)
class Stage:
    """A stretch of a model at one resolution: the modules it is made of, most often one, and its blocks, in model order."""

    roots: tuple[str, ...]
    blocks: tuple[str, ...]


def find_stages(model: nn.Module) -> list[Stage]:
    """The stages of a model in model order; stems and heads are in none.

    `feature_info` names the end of each stage. What comes before that end, down to the end named before, is of its
    stage: items of the same sequence (`blocks.3` before `blocks.4`), or parts of the model that have convolutions
    inside their parts. A stretch is a stage if some of it is made of blocks. A model that is one flat sequence of
    layers, as VGG is, has none such: there each stretch with a convolution is a stage. A name that the model does not
    have, as HRNet's stage1, stands for the first part with blocks before the end named next (HRNet's layer1), so that
    its stage2 is stage 2.
    A network that `feature_info` knows at one resolution alone, as ConvMixer is, whose blocks are all named, has one stage.
    Without `feature_info` stages are the top-level sequences of blocks, or the items of a top-level sequence of stages.
    """
    modules = dict(model.named_modules())
    groups = _groups(model, modules)
    kept = [group for group in groups if any(_holds_blocks(modules[root]) for root in group)]
    if kept:
        levels = [_parent(group[0]) for group in kept]
        home = max(levels, key=levels.count)
        kept = [group for group in kept if _parent(group[0]) == home]  # a stem beside the sequence may be a block too
        kept[0] = [root for root in kept[0] if _holds_blocks(modules[root])]
        if len(kept) > 1 and _is_of_one_resolution(model):
            roots = tuple(root for group in kept for root in group)
            return [Stage(roots, roots)]
        return [Stage(tuple(group), tuple(_blocks(modules, group))) for group in kept]
    parents = {_parent(root) for group in groups for root in group}
    if len(groups) > 1 and len(parents) == 1 and isinstance(modules[parents.pop()], _LISTS):
        flat = [[root for root in group if _convolutions(modules[root])] for group in groups]
        stages = [Stage(tuple(group), tuple(group)) for group in flat if group]
        if stages:
            return stages
    return [Stage((root,), tuple(_blocks(modules, [root]))) for root in _by_structure(model)]


def find_stem(model: nn.Module, stages: list[Stage]) -> list[Stage]:
    """What has spatial convolutions outside of the `stages`, as stages: a convolutional stem or neck, a whole network before a transformer.

    Of each part of the model the narrowest module that holds all of its spatial convolutions: its own stages, or where it has none all
    of it as one.
    """
    roots = {root for stage in stages for root in stage.roots}
    modules = dict(model.named_modules())
    found: list[Stage] = []
    for part, _ in model.named_children():
        spatial = [
            fqn
            for fqn, module in modules.items()
            if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 and _touches(part, {fqn})
        ]
        if not spatial or _touches(part, roots):
            continue
        holder = _common(spatial)
        inside = [_below(holder, stage) for stage in find_stages(modules[holder])]
        children = [f"{holder}.{name}" for name, child in modules[holder].named_children() if _convolutions(child)]
        found += inside or [Stage((holder,), tuple(children) or (holder,))]
    return found


def _common(names: list[str]) -> str:
    """The narrowest module that all of them are or stand in."""
    first, *others = (name.split(".") for name in names)
    while any(other[: len(first)] != first for other in others):
        first.pop()
    return ".".join(first)


def _below(holder: str, stage: Stage) -> Stage:
    roots, blocks = (tuple(f"{holder}.{name}" for name in names) for names in (stage.roots, stage.blocks))
    return Stage(roots, blocks)


def place_of(fqn: str, stages: list[Stage], order: dict[str, int]) -> tuple[int, int] | None:
    """(stage from 1, block from 0) of a module; None outside of all stages. `order` has each module's position in the model.

    What stands between two blocks counts with the block before it, what stands before the first block with the first.
    """
    for number, stage in enumerate(stages, start=1):
        if any(fqn == root or fqn.startswith(f"{root}.") for root in stage.roots):
            return number, max(0, sum(order[block] <= order[fqn] for block in stage.blocks) - 1)
    return None


def _is_of_one_resolution(model: nn.Module) -> bool:
    info = getattr(model, "feature_info", None) or []
    return len({entry.get("reduction") for entry in getattr(info, "info", info) if isinstance(entry, dict)}) == 1


def _groups(model: nn.Module, modules: dict[str, nn.Module]) -> list[list[str]]:
    """What `feature_info` names, in model order, each with what comes before it at its level."""
    info = getattr(model, "feature_info", None) or []
    entries = getattr(info, "info", info)
    order = {fqn: position for position, fqn in enumerate(modules)}
    named = {entry["module"] for entry in entries if isinstance(entry, dict) and entry.get("module") in modules}
    ends = sorted({_lift(name, modules) for name in named if name}, key=order.__getitem__)
    after_missing = _after_missing(entries, modules)
    groups: list[list[str]] = []
    taken: set[str] = set()
    for end in ends:
        parent = _parent(end)
        siblings = [f"{parent}.{child}".lstrip(".") for child, _ in modules[parent].named_children()]
        group = [name for name in siblings[: siblings.index(end)] if not _touches(name, taken)]
        members = [name for name in group if parent or _holds_blocks(modules[name])] + [end]
        if end in after_missing and len(members) > 1:
            groups.append(members[:1])
            members = members[1:]
        groups.append(members)
        taken.update([*group, end])
    return _with_rest(groups, modules)


def _after_missing(entries: Iterable[Any], modules: dict[str, nn.Module]) -> set[str]:
    """What `feature_info` names right after a name that the model does not have."""
    names = [entry.get("module") for entry in entries if isinstance(entry, dict)]
    return {name for before, name in pairwise(names) if name in modules and before and before not in modules}


def _touches(name: str, taken: set[str]) -> bool:
    return any(other == name or other.startswith(f"{name}.") for other in taken)


def _with_rest(groups: list[list[str]], modules: dict[str, nn.Module]) -> list[list[str]]:
    """Give the items left at the end of a sequence to its last group; a group of their own if another end comes after."""
    for position in range(len(groups) - 1, -1, -1):
        parent = _parent(groups[position][-1])
        if not parent or any(_parent(group[-1]) == parent for group in groups[position + 1 :]):
            continue
        names = [f"{parent}.{child}" for child, _ in modules[parent].named_children()]
        rest = [name for name in names[names.index(groups[position][-1]) + 1 :] if _holds_blocks(modules[name])]
        if rest and position + 1 < len(groups):
            groups.insert(position + 1, rest)
        else:
            groups[position] += rest
    return groups


def _lift(fqn: str, modules: dict[str, nn.Module]) -> str:
    """What holds a layer at the level of the stages: an item of a top-level sequence, else a part of the model."""
    parts = fqn.split(".")
    return ".".join(parts[:2]) if isinstance(modules[parts[0]], _LISTS) else parts[0]


def _parent(fqn: str) -> str:
    return fqn.rpartition(".")[0]


def _blocks(modules: dict[str, nn.Module], roots: list[str]) -> list[str]:
    """Names of the blocks in a stage: the items of its sequences; where it has none, its parts."""
    blocks: list[str] = []
    for root in roots:
        module = modules[root]
        children = dict(module.named_children())
        lists = [name for name, child in children.items() if isinstance(child, _LISTS) and _has_composite(child)]
        if isinstance(module, (*_LISTS, nn.ModuleDict)) and children:
            blocks += [f"{root}.{name}" for name in children]
        elif lists:
            blocks += [f"{root}.{name}.{item}" for name in lists for item, _ in children[name].named_children()]
        elif len(roots) == 1:
            blocks += [f"{root}.{name}" for name in children]
        else:
            blocks.append(root)
    return blocks


def _has_composite(module: nn.Module) -> bool:
    """Tell whether some item has parts of its own: a sequence of blocks rather than of layers."""
    return any(next(item.children(), None) is not None for item in module.children())


def _convolutions(module: nn.Module) -> bool:
    return any(isinstance(inner, nn.Conv2d) for inner in module.modules())


def _holds_blocks(module: nn.Module) -> bool:
    """A stage has parts which have convolutions inside; a stem, which `feature_info` also names, is made of layers."""
    return any(
        inner is not part and isinstance(inner, nn.Conv2d) for part in module.children() for inner in part.modules()
    )


def _by_structure(model: nn.Module) -> list[str]:
    roots: list[str] = []
    for name, child in model.named_children():
        if not _is_sequence_of_blocks(child):
            continue
        items = list(child.named_children())
        nested = all(_is_sequence_of_blocks(item) for _, item in items)
        roots += [f"{name}.{item}" for item, _ in items] if nested else [name]
    return roots


def _is_sequence_of_blocks(module: nn.Module) -> bool:
    """A sequence whose items all have parts of their own; a stem's items are single layers."""
    items = list(module.children()) if isinstance(module, _LISTS) else []
    return bool(items) and _holds_blocks(module) and all(next(item.children(), None) is not None for item in items)
