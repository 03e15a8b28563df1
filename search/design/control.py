"""The capacity-matched control: a plain-convolution network that costs what an arm with attention costs.

At the arm's own sites its branches give way to a second convolution (`second_conv`), whose width is chosen so that the
network has the arm's parameters or multiply-accumulates. What that brings, attention has to beat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from search.design.kinds import Cell

__all__ = ["MATCHES", "Control", "Cost", "matched_control"]

MATCHES = ("params", "macs")
Cost = Callable[[Sequence[str]], Mapping[str, float]]
"""Overrides -> {"params", "macs"} of the network they build; ValueError where they build none."""
Figure = Callable[[Sequence[str]], float]
USES = ("conv+second_conv", "second_conv")  # the second: for an arm that costs less than the plain network
KERNELS = (None, 1)  # of the second convolution; None is the host's
STEPS = 11  # of the bisection: a width to a part in two thousand of the host's
MOST = 64.0  # times as wide as the host, at the most
CLOSE = 0.01  # a mismatch, as a share of what the arm adds, that nothing else is tried to better


@dataclass(frozen=True)
class Control:
    """A control and how well it matches.

    Attributes:
        cell: the arm's factors and overrides, then those that put plain convolutions in the place of its branches.
        match: "params" or "macs".
        target: of the arm. `got`: of the control. `plain`: of the network with a plain convolution at those sites.
    """

    cell: Cell
    match: str
    target: float
    got: float
    plain: float

    @property
    def mismatch(self) -> float:
        """Percent of the arm's whole network by which the control is larger."""
        return 100.0 * (self.got - self.target) / self.target

    @property
    def mismatch_of_added(self) -> float | None:
        """Percent of what the arm adds to the plain network; None where it adds nothing."""
        added = self.target - self.plain
        return 100.0 * (self.got - self.target) / added if added else None

    def __str__(self) -> str:
        """Both figures and the mismatch, in words."""
        of_added = self.mismatch_of_added
        share = "" if of_added is None else f", {of_added:+.1f} % of what the arm adds to the plain network"
        return f"{self.cell.name}: {self.got:,.0f} {self.match}, the arm {self.target:,.0f}, a mismatch of {self.mismatch:+.2f} %{share}"


def matched_control(arm: Cell, sites: Sequence[str], cost: Cost, match: str = "params") -> Control:
    """Find the plain-convolution network nearest to `arm` in `match`.

    Tried are a second convolution beside the first and, for arms that cost less than the plain network, a narrow one
    alone; with the host's kernel and with a 1x1 one; of every width. A kernel or use is preferred in this order where
    the match is as good.

    Args:
        arm: a cell that places branches.
        sites: names of the sites where it does.
        cost: what a network costs. It is asked a few dozen times.
        match: "params" or "macs".

    Raises:
        ValueError: an unknown `match`, an arm that places nothing, or a backbone where no second convolution can stand.
    """
    if match not in MATCHES:
        raise ValueError(f"design control={match}: allowed are none, {', '.join(MATCHES)}")
    if not sites:
        raise ValueError(f"design control: the cell {arm.name!r} places nothing, so there is nothing to match")

    def asked(lines: Sequence[str]) -> float:
        return float(cost([*arm.overrides, *lines])[match])

    target, plain = asked([]), asked(_instead(sites, "conv"))
    close = CLOSE * abs(target - plain)
    best: tuple[float, float, list[str]] | None = None
    refusals = []
    for use in USES[:1] if target >= plain else reversed(USES):
        for kernel in KERNELS:
            try:
                found = _nearest(asked, target, close, sites, use, kernel)
            except ValueError as error:
                refusals.append(str(error))
                continue
            if best is None or found[0] < best[0]:
                best = found
            if best[0] <= close:
                break
        if best is not None and best[0] <= close:
            break
    if best is None:
        raise ValueError(f"design control: no second convolution can stand at the sites of {arm.name!r}: {refusals[0]}")
    name = f"{arm.name} [control: plain, same {match}]"
    cell = Cell(name, (*arm.overrides, *best[2]), {**arm.factors, "control": match}, is_baseline=False)
    return Control(cell, match, target, best[1], plain)


def _instead(sites: Sequence[str], use: str) -> list[str]:
    """Another use at exactly these sites. A new last key of `placement.at` goes before whatever chose them."""
    return [f"placement.at={{{'+'.join(sites)}:{use}}}"]


def _lines(sites: Sequence[str], use: str, kernel: int | None, ratio: float | None) -> list[str]:
    options = "branch.options.second_conv"
    return [
        *_instead(sites, use),
        f"{options}.kernel={'null' if kernel is None else kernel}",
        f"{options}.width_ratio={'null' if ratio is None else f'{ratio:.6g}'}",
    ]


def _nearest(
    cost: Figure, target: float, close: float, sites: Sequence[str], use: str, kernel: int | None
) -> tuple[float, float, list[str]]:
    """Distance from `target`, cost and overrides of the nearest width: cost grows with it, in steps of a channel."""
    tried = list(_widths(cost, target, close, sites, use, kernel))
    return min(tried, key=lambda found: found[0])


def _widths(
    cost: Figure, target: float, close: float, sites: Sequence[str], use: str, kernel: int | None
) -> Iterator[tuple[float, float, list[str]]]:
    def at(ratio: float | None) -> tuple[float, float, list[str]]:
        lines = _lines(sites, use, kernel, ratio)
        got = cost(lines)
        return abs(got - target), got, lines

    yield at(None)
    low, high = 0.0, 1.0
    while (found := at(high))[1] < target and high < MOST:
        yield found
        low, high = high, 2 * high
    yield found
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = at(middle)
        yield found
        if found[0] <= close:
            return
        low, high = (middle, high) if found[1] < target else (low, middle)
