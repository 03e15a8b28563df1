"""Arms in the words of a paper: "stage3: conv+pssa(embed_ratio=0.25)" is "X-volution, stage 3".

Levels that a design names itself ("X-volution(SA)" for `branch.use=conv+softmax_global`) stay as they are. Options that all blocks
share are left to the legend; names that would be the same for two arms stay as the ledger has them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from search.ledger.study_files import CONTROL
from search.report.arms import Arm
from search.report.values import GIVEN, overrides
from search.report.words import joined

BLOCKS: dict[tuple[str, ...], str] = {("conv", "pssa"): "X-volution", ("conv", "softmax_global"): "X-volution(SA)"}
BRANCHES = {
    "acmix": "ACmix",
    "additive_attention": "additive attention",
    "bottleneck_attn": "bottleneck attention",
    "conv": "convolution",
    "dbb": "diverse branch block",
    "deform_conv": "deformable convolution",
    "dw_only": "depthwise bottleneck",
    "focal_modulation": "focal modulation",
    "gap_query": "PSSA with a pooled query",
    "gate_only": "gated linear unit",
    "gated_dw": "gated depthwise convolution",
    "global_context": "global context",
    "halo": "halo attention",
    "inception_dw": "Inception depthwise convolution",
    "lambda_layer": "lambda layer",
    "large_kernel": "large-kernel attention",
    "linear_global": "linear attention",
    "outlook": "outlook attention",
    "pool": "pooling",
    "pssa": "PSSA",
    "pssa_dense": "dense PSSA",
    "pssa_inner": "inner-product PSSA",
    "rep_large_kernel": "reparameterised large kernel",
    "second_conv": "second convolution",
    "selective_kernel": "selective kernel",
    "single_head": "single-head attention",
    "softmax_global": "self-attention",
    "star": "star operation",
}
BRANCH = r"([A-Za-z_]\w*)(?:\(([^()]*)\))?"
BLOCK = re.compile(rf"{BRANCH}(?:\+{BRANCH})*(?: keeps_norm=(\S+))?(?: gamma=(\S+))?")
Option = tuple[str, str]  # branch and key, e.g. ("pssa", "embed_ratio"); of the block as a whole ("", "gamma")


def in_words(arms: Sequence[Arm]) -> tuple[dict[str, str], str]:
    """Name each arm, by its label, for a reader who does not know the harness; and say the options that all blocks share."""
    if all(arm.trials["phase"].eq(GIVEN).all() for arm in arms):
        return {arm.label: arm.label for arm in arms}, ""
    shared = _shared([block for arm in arms for _, block in _groups(arm)])
    by_label = {arm.label: _named(arm, shared) for arm in arms}
    explicit = _explicit(arms)
    if explicit:
        levels = {arm.label: _levels(arm, explicit) for arm in arms}
        counts = Counter(levels.values())
        by_label |= {label: name for label, name in levels.items() if name and counts[name] == 1}
    counts = Counter(by_label.values())
    named = {label: label if counts[name] > 1 else name for label, name in by_label.items()}
    said = dict.fromkeys(f"{key}={value}" for (_, key), value in shared.items())
    return named, joined(list(said))


def level_in_words(factor: str, level: str) -> str:
    """Say the level of a factor: a place or a block in words, any other as it is."""
    return place(level) if factor == "where" else block(level, {}) if factor == "what" else level


def place(where: str) -> str:
    """Say where blocks stand: "stage1+stage3" is "stages 1 and 3"; single sites keep their names."""
    if where == "all":
        return "all stages"
    parts = re.split(r"\+|, ", where)
    stages = [part.removeprefix("stage") for part in parts if re.fullmatch(r"stage\d+", part)]
    others = [
        re.sub(r"^stage(\d+)\.(\d+)$", r"stage \1 block \2", part)
        for part in parts
        if not re.fullmatch(r"stage\d+", part)
    ]
    named = [f"stage{'s' * (len(stages) > 1)} {joined(stages)}"] if stages else []
    return joined([*named, *others])


def block(what: str, shared: Mapping[Option, str]) -> str:
    """Say what a block is, without the options that all share; a text that is none stays as it is."""
    parsed = _parsed(what)
    if parsed is None:
        return what
    branches, options = parsed
    own = [f"{key}={value}" for (branch, key), value in options.items() if shared.get((branch, key)) != value]
    name = BLOCKS.get(branches)
    if name is None:
        each = [BRANCHES.get(branch, branch) for branch in branches]
        name = f"{each[0]} alone" if len(each) == 1 else " + ".join(each)
    return (name[0].upper() + name[1:] if branches[0] in BRANCHES else name) + (f" ({', '.join(own)})" if own else "")


def _groups(arm: Arm) -> list[tuple[str, str]]:
    """Where an arm has which block, as its label says it; empty for the plain network, and for a label of another kind."""
    groups = [part.partition(": ") for part in _bare(arm).split("; ")]
    return [(where, what) for where, _, what in groups] if all(what for *_, what in groups) else []


def _suffix(arm: Arm) -> str:
    return "".join(f", {name}={arm.levels[name]}" for name in arm.recipe_factors if name in arm.levels)


def _bare(arm: Arm) -> str:
    """The label without the levels of the recipe's factors behind it."""
    return arm.label.removesuffix(_suffix(arm))


def _named(arm: Arm, shared: Mapping[Option, str]) -> str:
    groups, bare = _groups(arm), _bare(arm)
    if not groups:
        return ("Plain network" if bare == "plain" else bare) + _suffix(arm)
    return "; ".join(f"{block(what, shared)}, {place(where)}" for where, what in groups) + _suffix(arm)


def _parsed(what: str) -> tuple[tuple[str, ...], dict[Option, str]] | None:
    if not BLOCK.fullmatch(what):
        return None
    what, _, gamma = what.partition(" gamma=")
    what, _, keeps_norm = what.partition(" keeps_norm=")
    found = re.findall(BRANCH, what)
    options = {
        (branch, key): value
        for branch, text in found
        for key, _, value in (each.partition("=") for each in text.split(", ") if each)
    }
    of_the_block = {("", "keeps_norm"): keeps_norm, ("", "gamma"): gamma}
    return tuple(branch for branch, _ in found), options | {
        option: value for option, value in of_the_block.items() if value
    }


def _shared(blocks: Sequence[str]) -> dict[Option, str]:
    """Options that have one value in every block that has their branch; gamma in every block of several branches."""
    parsed = [each for each in map(_parsed, blocks) if each is not None]
    seen: dict[Option, set[str | None]] = {}
    for option in dict.fromkeys(option for _, options in parsed for option in options):
        having = [
            options for branches, options in parsed if (option[0] in branches if option[0] else len(branches) > 1)
        ]
        seen[option] = {options.get(option) for options in having}
    return {option: value for option, found in seen.items() if len(found) == 1 for value in found if value is not None}


def _explicit(arms: Sequence[Arm]) -> list[str]:
    """The factors, in the order of the design, that set an arm apart where some level is no value of a key but a name of its own."""
    factors = dict.fromkeys(name for arm in arms for name in arm.levels if name != CONTROL)
    varying = [name for name in factors if len({arm.levels.get(name) for arm in arms}) > 1]

    def named(arm: Arm, factor: str) -> bool:
        set_by = {str(value) for found in overrides(arm).values() for value in found}
        return factor in arm.levels and arm.levels[factor] not in set_by | {"none"}

    return varying if any(named(arm, factor) for arm in arms for factor in varying) else []


def _levels(arm: Arm, factors: Sequence[str]) -> str:
    return ", ".join(place(level) for level in (arm.levels.get(name, "none") for name in factors) if level != "none")
