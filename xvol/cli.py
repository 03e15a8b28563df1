"""`xvol-sites resnet50`: where blocks could stand in a timm model, and what each branch would cost there."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import timm
from torch import nn

from xvol.allowed import suggest
from xvol.block import CONV, BlockSpec, XVolution2d
from xvol.branches import branch_class, branch_names
from xvol.branches.base import Geometry
from xvol.placement import describe, select
from xvol.probe import count_macs, count_params
from xvol.siting import Site, refused, sites

Table = list[list[str]]


class Cost(NamedTuple):
    """What a branch and its norm add to a host; MACs of one image."""

    params: int
    macs: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the sites of a model; a fault of the user's is one message on stderr and exit status 2."""
    given = _parser().parse_args(arguments)
    try:
        print(_report(given))
    except (ValueError, RuntimeError) as error:
        print(f"xvol-sites: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="xvol-sites", description=__doc__)
    parser.add_argument("model", help="name in timm, e.g. resnet50")
    parser.add_argument("--policy", default="all", help='which sites, e.g. "stage3", "stage[2-4].last" (default: all)')
    parser.add_argument(
        "--input-size", type=int, nargs="+", metavar="N", help="height and width, or channels, height and width"
    )
    parser.add_argument("--branches", help="comma-separated: a column for each, and no other branch in the totals")
    parser.add_argument("--refused", action="store_true", help="also list what is no site, and why")
    return parser


def _report(given: argparse.Namespace) -> str:
    model = _build(given.model)
    size = _size(given.input_size, model)
    found = sites(model, size)
    chosen = select(found, given.policy)
    names = _branches(given.branches)
    params, macs = count_params(model), count_macs(model, size)
    parts = [
        f"{given.model} at {'x'.join(map(str, size))}: {_number(params)} params, {_number(macs)} MACs; "
        f"{len(chosen)} of {len(found)} sites ({describe(found, chosen)})",
        _align(_site_rows(chosen, names if given.branches else [])),
        f"What each branch, with its norm, adds at these {len(chosen)} sites beside the convolution:",
        _align(_total_rows(chosen, names, params, macs)),
    ]
    refusals = refused(model, size)
    counts = Counter(refusal.reason for refusal in refusals).most_common()
    if given.refused and refusals:
        parts.append(_align([["refused", "reason"], *([refusal.fqn, refusal.reason] for refusal in refusals)]))
    elif refusals:
        parts.append("Refused:\n" + "\n".join(f"  {count} x {reason}" for reason, count in counts))
    return "\n\n".join(parts)


def _build(name: str) -> nn.Module:
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}: {suggest(name, timm.list_models())}")
    model: nn.Module = timm.create_model(name)
    return model


def _size(given: list[int] | None, model: nn.Module) -> tuple[int, int, int]:
    """(C, H, W): as given, else the model's own."""
    config = getattr(model, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size") or (3, 224, 224)
    if given is None:
        return channels, height, width
    if len(given) > 3:
        raise ValueError(f"--input-size {' '.join(map(str, given))}: give one edge, height and width, or C, H and W")
    said = f"--input-size {' '.join(map(str, given))}"
    if min(given) < 1:
        raise ValueError(f"{said}: each number must be at least 1")
    if len(given) < 3:
        return channels, given[0], given[-1]
    return given[0], given[1], given[2]


def _branches(given: str | None) -> list[str]:
    if given is None:
        return list(branch_names())
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if not name or names.count(name) > 1:
            raise ValueError(f"--branches {given}: give each name once, e.g. --branches pssa,acmix")
        branch_class(name)
    return names


@cache
def _cost(name: str, geometry: Geometry, in_size: tuple[int, int]) -> Cost | str:
    """Of the branch with its defaults; where it cannot stand in, why. The conv branch is the host, so it adds nothing.

    Built and run without memory, on torch's "meta" device.
    """
    if name == CONV:
        return Cost(0, 0)
    try:
        spec = BlockSpec.make([name])
        block = XVolution2d(geometry.in_chs, geometry.out_chs, spec=spec, device="meta", **geometry.window)
        return Cost(count_params(block), count_macs(block, (geometry.in_chs, *in_size)))
    except ValueError as error:
        return str(error)


def _site_rows(chosen: list[Site], names: list[str]) -> Table:
    head = ["site", "stage", "block", "conv", "stride", "groups", "channels", "in", "out", "params", "MACs"]
    rows = [head + [f"+{name}" for name in names]]
    for site in chosen:
        costs = [_cost(name, site.geometry, site.in_size) for name in names]
        dilated = f" d{site.dilation}" if site.dilation > 1 else ""
        rows.append(
            [
                site.fqn,
                str(site.stage),
                str(site.block),
                f"{site.kernel}x{site.kernel}{dilated}",
                str(site.stride),
                str(site.groups),
                f"{site.in_chs}->{site.out_chs}",
                "x".join(map(str, site.in_size)),
                "x".join(map(str, site.out_size)),
                _number(site.params),
                _number(site.macs),
                *("-" if isinstance(cost, str) else f"{_number(cost.params)}/{_number(cost.macs)}" for cost in costs),
            ]
        )
    return rows


def _total_rows(chosen: list[Site], names: list[str], params: int, macs: int) -> Table:
    rows = [["branch", "params", "of model", "MACs", "of model", "cannot stand at"]]
    for name in names:
        costs = [_cost(name, site.geometry, site.in_size) for site in chosen]
        added = [cost for cost in costs if isinstance(cost, Cost)]
        faults = [cost for cost in costs if isinstance(cost, str)]
        more_params, more_macs = sum(cost.params for cost in added), sum(cost.macs for cost in added)
        rows.append(
            [
                name,
                f"+{_number(more_params)}",
                f"+{more_params / max(params, 1):.1%}",
                f"+{_number(more_macs)}",
                f"+{more_macs / max(macs, 1):.1%}",
                f"{len(faults)} sites: {faults[0]}" if faults else "",
            ]
        )
    return rows


def _number(count: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}" if count < 1000 * size else f"{count / size:.0f}{unit}"
    return str(count)


def _align(rows: Table) -> str:
    """The first column and columns of words to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = [column == 0 or head in ("reason", "cannot stand at") for column, head in enumerate(rows[0])]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if words else cell.rjust(width)
            for cell, width, words in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
