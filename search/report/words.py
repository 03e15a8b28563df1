"""Numbers as a reader wants them: digits that carry information, thousands as k, M and G, lists that read as speech."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from xvol.allowed import nearest

P_TITLES = {"holm": "p (Holm)", "bonferroni": "p (Bonferroni)", "bh": "p (BH)", "none": "p"}


def decimals_for(spreads: Iterable[float], default: int, must_show: Iterable[float] = ()) -> int:
    """Digits after the point at which the largest spread has two significant digits, between 1 and 4; else `default`.

    `must_show` are numbers that must not be rounded to zero, e.g. the end of an interval that excludes it.
    """
    known = [spread for spread in spreads if spread > 0 and math.isfinite(spread)]
    if not known:
        return default
    rounded = float(f"{max(known):.1e}")  # 0.0996 is 0.10
    decimals = min(max(1 - math.floor(math.log10(rounded)), 1), 4)
    while decimals < 4 and any(value != 0 and round(value, decimals) == 0 for value in must_show):
        decimals += 1
    return decimals


def interval_decimals(intervals: Iterable[tuple[float, float]], default: int) -> int:
    """Digits after the point for differences: as `decimals_for` the half widths of their intervals."""
    known = list(intervals)
    excluding_zero = [end for low, high in known if low * high > 0 for end in (low, high)]
    return decimals_for([(high - low) / 2 for low, high in known], default, must_show=excluding_zero)


def signed(value: float, decimals: int) -> str:
    """Format a difference with its sign; what rounds to zero has none."""
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text


def scaled(value: float) -> str:
    """Format a count with three significant digits: 850, 12.3 k, 1.20 M, 3.60 G."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size * 0.9995:
            return f"{significant(value / size)} {unit}"
    return f"{value:.0f}"


def significant(value: float, digits: int = 3) -> str:
    """Format a positive number with `digits` significant digits and no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    rounded = float(f"{value:.{digits - 1}e}")
    return f"{rounded:.{max(digits - 1 - math.floor(math.log10(abs(rounded))), 0)}f}"


def p_shown(p: float, alpha: float = 0.05) -> str:
    """Format a p-value with two significant digits; more where rounding would move it over `alpha`."""
    if p < 0.0001:
        return "< 0.0001"
    for digits in range(2, 17):
        text = f"{float(f'{p:.{digits}g}'):.{digits + 4}f}".rstrip("0").rstrip(".")
        if (float(text) <= alpha) == (p <= alpha):
            break
    return text


def p_is(p: float) -> str:
    """Say a p-value: "p = 0.012", "p < 0.0001"."""
    text = p_shown(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def joined(items: Sequence[str]) -> str:
    """Join names as in a sentence: "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def span(values: Iterable[float], form: str) -> str:
    """Say the smallest and the largest value: "0.8 to 1.2"; one of them where they read alike."""
    known = list(values)
    return " to ".join(dict.fromkeys(format(value, form) for value in (min(known), max(known))))


def counted(number: int, what: str) -> str:
    """Say a number of things: "1 seed", "5 seeds"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def counted_range(low: int, high: int, what: str) -> str:
    """Say from how many to how many things there are: "5 seeds", "3 to 5 seeds"."""
    return counted(high, what) if low == high else f"{low} to {high} {what}s"


def duration(seconds: float) -> str:
    """Seconds in the unit that fits: "40 s", "14.0 min", "2.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def did_you_mean(given: object, allowed: Iterable[str], opening: str = " ", quote: str = "") -> str:
    """Say the name that `given` comes nearest to; "" where there is none."""
    near = nearest(given, allowed)
    return f"{opening}Did you mean {quote}{near[0]}{quote}?" if near else ""


def joined_few(names: Sequence[str], most: int) -> str:
    """Join a few names; of many name some, and count the rest."""
    return joined(list(names) if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"])


def int_ranges(numbers: Iterable[int], limit: int = 12) -> str:
    """List integers, consecutive ones as a range: "0-4, 7"; after `limit` pieces the rest is counted."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    pieces = [str(low) if low == high else f"{low}-{high}" for low, high in runs]
    more = f", and {len(pieces) - limit} more" if len(pieces) > limit else ""
    return ", ".join(pieces[:limit]) + more


def one_line(text: str, width: int = 160) -> str:
    """Keep the first line of a message, without control characters, cut to `width`."""
    lines = text.strip().splitlines() or [""]
    line = re.sub(r"[\x00-\x1f\x7f]+", " ", lines[0]).strip()
    return line if len(line) <= width else line[: width - 3] + "..."
