"""From a policy in words to chosen sites, and from chosen sites to the shortest words for them.

The unit is the block: `first`, `last`, an index, `every=` and `last_k=` take all sites of a block together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from xvol.allowed import suggest
from xvol.siting import Site

GRAMMAR = """a policy is one or more of these, joined by '+' or ',':
  none (or plain)      nothing            all                  every site
  stage3, stage3.*     a stage            stage[2-4], stage[2,4]   several stages
  stage3.first         its first block    stage3.last          its last block
  stage3.0             block number 0     stage3.every=2       blocks 0, 2, 4, ... of those with sites
  stage3.last_k=2      its last 2 blocks  every=2, last_k=2    the same over the whole model
  layer3.0.conv2       one site by its name"""

_STAGE = re.compile(r"stage(?:(?P<one>\d+)|\[(?P<many>[^\]]*)\])(?:\.(?P<rest>.+))?")
_COUNT = re.compile(r"(every|last_k)=(\d+)")

Block = tuple[int, int]  # stage, block


def select(sites: Sequence[Site], policy: str) -> list[Site]:
    """The sites that `policy`, see `GRAMMAR`, names, in model order, each once.

    Raises:
        ValueError: the text is no policy, names a stage, block or site that is not there, or selects nothing (other
            than "none"). The message has what is there.

    Example:
        >>> select(xvol.sites(model), "stage[2-3].last + layer4.0.conv2")  # doctest: +SKIP
    """
    terms = [term.strip() for term in re.split(r"[+,](?![^\[]*\])", policy)]
    if not all(terms):
        raise ValueError(f"placement {policy!r} has an empty part; {GRAMMAR}")
    names = {name for term in terms for name in _term(sites, term, policy)}
    return [site for site in sites if site.fqn in names]


def describe(sites: Sequence[Site], chosen: Iterable[Site | str]) -> str:
    """The short label of a set of sites, in any order, one for each set: a policy that selects it again.

    Returns:
        "plain" for none, "all" for all; else whole stages ("stage3"), whole blocks ("stage3.0") and single sites
        ("layer3.0.conv2"), in model order, joined by "+". ValueError where one is none of `sites`.
    """
    names = {site if isinstance(site, str) else site.fqn for site in chosen}
    known = [site.fqn for site in sites]
    for name in sorted(names.difference(known)):
        raise ValueError(f"{name!r} is no site of this model: {suggest(name, known)}")
    if not names:
        return "plain"
    if len(names) == len(known):
        return "all"
    labels: list[str] = []
    for site in sites:
        if site.fqn in names:
            label = _label(sites, site, names)
            if label not in labels:
                labels.append(label)
    return "+".join(labels)


def _label(sites: Sequence[Site], site: Site, names: set[str]) -> str:
    """The widest unit around `site` that is chosen as a whole."""
    stage = {other.fqn for other in sites if other.stage == site.stage}
    block = {other.fqn for other in sites if (other.stage, other.block) == (site.stage, site.block)}
    if stage <= names:
        return f"stage{site.stage}"
    return f"stage{site.stage}.{site.block}" if block <= names else site.fqn


def _term(sites: Sequence[Site], term: str, policy: str) -> list[str]:
    """Names of the sites that one part of a policy selects: none only for "none" and "plain"."""
    if term in ("none", "plain"):
        return []
    if not sites:
        raise ValueError(f"placement {policy!r} selects nothing: the model has no sites")
    known = [site.fqn for site in sites]
    if term == "all":
        return known
    if term in known:
        return [term]
    if _COUNT.fullmatch(term):
        return _blocks(sites, term, policy, "the model")
    match = _STAGE.fullmatch(term)
    if match:
        return _in_stages(sites, match, term, policy)
    if re.match(r"stage\b|stage[\d\[]|every|last_k", term):
        raise ValueError(f"placement {policy!r}: {term!r} is not understood; {GRAMMAR}")
    stages = [f"stage{number}" for number in sorted({site.stage for site in sites})]
    near = suggest(term, ["none", "all", *stages, *known])
    raise ValueError(f"placement {policy!r}: {term!r} is neither a site of this model nor a policy; {near}. {GRAMMAR}")


def _in_stages(sites: Sequence[Site], match: re.Match[str], term: str, policy: str) -> list[str]:
    numbers = [int(match["one"])] if match["one"] else _numbers(match["many"], policy)
    present = sorted({site.stage for site in sites})
    names: list[str] = []
    for number in numbers:
        if number not in present:
            there = ", ".join(f"stage{stage}" for stage in present)
            raise ValueError(
                f"placement {policy!r}: {term!r} selects nothing, for stage{number} has no sites; there are {there}"
            )
        inside = [site for site in sites if site.stage == number]
        names += _blocks(inside, match["rest"] or "*", policy, f"stage{number}")
    return names


def _numbers(text: str, policy: str) -> list[int]:
    """The inside of the brackets in stage[2-3,5]."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if low > high or high > 99:
            raise ValueError(f"placement {policy!r}: [{text}] must list stages, such as [2,4] or [2-4]; {GRAMMAR}")
        numbers += range(low, high + 1)
    return numbers


def _blocks(sites: Sequence[Site], which: str, policy: str, where: str) -> list[str]:
    """Names of the sites in the blocks that `which` picks out of `sites`."""
    blocks = list(dict.fromkeys((site.stage, site.block) for site in sites))
    picks: dict[str, Callable[[], list[Block]]] = {
        "*": lambda: blocks,
        "first": lambda: blocks[:1],
        "last": lambda: blocks[-1:],
    }
    count = _COUNT.fullmatch(which)
    if count:
        picked = _counted(blocks, count[1], int(count[2]), policy, where)
    elif which.isdecimal():
        picked = [block for block in blocks if block[1] == int(which)]
        if not picked:
            there = ", ".join(str(index) for _, index in blocks)
            raise ValueError(
                f"placement {policy!r} selects nothing: {where} has no sites in block {which}; its blocks are {there}"
            )
    elif which in picks:
        picked = picks[which]()
    else:
        near = suggest(which, [*picks, "every=2", "last_k=2", "0"])
        raise ValueError(f"placement {policy!r}: {which!r} does not pick blocks of {where}; {near}. {GRAMMAR}")
    return [site.fqn for site in sites if (site.stage, site.block) in picked]


def _counted(blocks: list[Block], rule: str, count: int, policy: str, where: str) -> list[Block]:
    if count < 1:
        raise ValueError(f"placement {policy!r}: {rule}={count} selects nothing; it must be at least 1")
    if rule == "every":
        return blocks[::count]
    if count > len(blocks):
        raise ValueError(f"placement {policy!r}: last_k={count}, but {where} has {len(blocks)} blocks with sites")
    return blocks[-count:]
