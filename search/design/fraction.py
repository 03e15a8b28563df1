"""Regular fractions of two-level factorials: generators of the highest resolution, and what is aliased with what.

A word is a set of factors as the bits of a number. The words of a fraction's defining relation are a group under xor, and
the resolution is the fewest factors in one of them. A run is 0 (the baseline's level) or 1 for each factor, and belongs
to the fraction when each word has an even number of ones in it: so the baseline, all zeros, always does.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_letters

MAX_FACTORS = 15
MAX_BASE = 7  # 128 runs
NODES = 20_000  # of the search for fewer shortest words, once a fraction of that resolution is certain
ROMAN = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")


@dataclass(frozen=True)
class Fraction:
    """A regular fraction with 2 ** base runs of `names`, the first `base` of which vary freely.

    `generators` has for each further factor those that it is the sum of (modulo 2), as bits.
    """

    names: tuple[str, ...]
    base: int
    generators: tuple[int, ...]

    @property
    def words(self) -> tuple[int, ...]:
        """The words of the defining relation but the empty one, shortest first."""
        found = [0]
        for number, generator in enumerate(self.generators):
            own = generator | 1 << (self.base + number)
            found += [word ^ own for word in found]
        return tuple(sorted(found[1:], key=lambda word: (word.bit_count(), word)))

    @property
    def resolution(self) -> int | None:
        """Factors in the shortest word; None for a full factorial, where nothing is aliased."""
        return self.words[0].bit_count() if self.generators else None

    def rows(self) -> list[tuple[int, ...]]:
        """The runs: 0 for the baseline's level and 1 for the other; the first row is all zeros."""
        rows = []
        for run in range(2**self.base):
            free = [run >> (self.base - 1 - place) & 1 for place in range(self.base)]  # the last factor varies fastest
            bits = sum(bit << place for place, bit in enumerate(free))
            rows.append((*free, *((bits & generator).bit_count() % 2 for generator in self.generators)))
        return rows

    def aliases(self, order: int = 2) -> list[tuple[tuple[str, ...], ...]]:
        """Groups of effects of up to `order` factors that these runs cannot tell apart; effects alone are left out.

        Each effect is the tuple of its factors; a group's first is its shortest. The empty tuple is the mean.
        """
        words = (0, *self.words)
        groups: dict[int, list[int]] = {}
        for effect in _effects(len(self.names), order):
            groups.setdefault(min(effect ^ word for word in words), []).append(effect)
        return [tuple(self._named(effect) for effect in group) for group in groups.values() if len(group) > 1]

    def describe(self) -> str:
        """Size, resolution, generators, defining relation (levels -1 and +1), and aliases up to pairs, in words."""
        factors, runs = len(self.names), 2**self.base
        if not self.generators:
            return f"2^{factors} full factorial: {runs} runs, nothing is aliased"
        resolution = self.resolution
        assert resolution is not None
        roman = ROMAN[resolution] if resolution < len(ROMAN) else str(resolution)
        made = [
            f"{self.names[self.base + number]} = {' + '.join(self._named(generator))} (mod 2)"
            for number, generator in enumerate(self.generators)
        ]
        # the baseline's level is -1: a product over an odd number of baseline levels is -1
        relation = [f"{'-' if word.bit_count() % 2 else '+'}{'*'.join(self._named(word))}" for word in self.words]
        shown = " = ".join(relation[:8]) + (f" = ... ({len(relation)} words)" if len(relation) > 8 else "")
        lines = [
            f"2^({factors}-{len(self.generators)}) fraction of resolution {roman}: {runs} of {2**factors} runs. "
            + MEANS[min(resolution, 5)],
            f"generators: {'; '.join(made)}",
            f"defining relation: I = {shown}",
        ]
        aliased = [" = ".join("*".join(effect) or "mean" for effect in group) for group in self.aliases()]
        lines += [f"aliased: {group}" for group in aliased] or ["aliased up to pairs: none"]
        return "\n".join(lines)

    def _named(self, effect: int) -> tuple[str, ...]:
        return tuple(name for place, name in enumerate(self.names) if effect >> place & 1)


MEANS = {
    1: "A factor does not vary.",
    2: "Main effects are aliased with each other.",
    3: "Main effects are aliased with pairwise interactions.",
    4: "Main effects are clear of pairwise interactions; some of these are aliased with each other.",
    5: "Main effects and pairwise interactions are clear of each other.",
}


def find_fraction(
    names: Sequence[str], *, runs: int | None = None, resolution: int | None = None, generators: Sequence[str] = ()
) -> Fraction:
    """The fraction of the highest resolution of that size; among equals one with few shortest words.

    Args:
        runs: a power of two; None takes the fewest runs that reach `resolution`.
        resolution: at least this one, 3 or more; with neither given, 4.
        generators: taken as they are, e.g. ["D=AB"]: factors by letter in their order, or by name, "rank=where*branch".
    """
    count = len(names)
    if not 1 <= count <= MAX_FACTORS:
        raise ValueError(f"design fractional: {count} factors, allowed are 1 to {MAX_FACTORS}")
    if resolution is not None and resolution < 3:
        raise ValueError(
            f"design resolution={resolution}: at least 3; below it main effects are aliased with each other"
        )
    if runs is not None and (runs < 2 or runs & (runs - 1)):
        raise ValueError(f"design runs={runs}: a power of two, e.g. {1 << max(1, runs.bit_length() - 1)}")
    if generators:
        fraction = _given(tuple(names), list(generators))
        found = fraction.resolution
        if runs not in (None, 2**fraction.base):
            raise ValueError(
                f"design generators make {2**fraction.base} runs, design runs={runs}; leave one of them out"
            )
        if resolution is not None and found is not None and found < resolution:
            raise ValueError(f"design generators reach resolution {found}, design resolution={resolution} is asked for")
        return fraction
    if runs is not None:
        return _of_size(tuple(names), runs, resolution)
    wanted = resolution or 4
    for base in range(1, min(count, MAX_BASE) + 1):
        if base == count:
            return Fraction(tuple(names), count, ())
        made = _search(base, count, wanted)
        if made is not None:
            return Fraction(tuple(names), base, _best(base, count, wanted))
    raise ValueError(
        f"design fractional: resolution {wanted} of {count} factors takes more than {2**MAX_BASE} runs; ask for a lower one "
        "with design.resolution=3, or for fewer factors"
    )


def _of_size(names: tuple[str, ...], runs: int, resolution: int | None) -> Fraction:
    count, base = len(names), runs.bit_length() - 1
    if base >= count:
        if base > count:
            raise ValueError(f"design runs={runs}: {count} two-level factors have only {2**count} combinations")
        return Fraction(names, count, ())
    if base > MAX_BASE or 2**base - 1 < count:
        fewest = 1 << count.bit_length()
        raise ValueError(
            f"design runs={runs}: allowed for {count} factors are powers of two from {fewest} to {2**MAX_BASE}"
        )
    found = _best(base, count, 3)
    fraction = Fraction(names, base, found)
    if resolution is not None and (fraction.resolution or count) < resolution:
        raise ValueError(
            f"design runs={runs} reaches resolution {fraction.resolution} at most with {count} factors, resolution={resolution} is "
            f"asked for; take runs={2 * runs} or more"
        )
    return fraction


def _best(base: int, count: int, at_least: int) -> tuple[int, ...]:
    """Generators of the highest resolution, which is known to be `at_least` or more."""
    for resolution in range(base + 1, at_least, -1):
        if _search(base, count, resolution) is not None:
            return _fewest_short_words(base, count, resolution)
    return _fewest_short_words(base, count, at_least)


@functools.lru_cache(maxsize=256)
def _search(base: int, count: int, resolution: int) -> tuple[int, ...] | None:
    """Some generators of that resolution, or None where there are none: every choice is gone through."""
    if resolution == 3:
        distinct = [word for word in range(2**base) if word.bit_count() >= 2]
        return tuple(distinct[: count - base]) if len(distinct) >= count - base else None
    if resolution == 4:  # all sums of an odd number of factors, and no set of sums is larger (Bose 1947)
        odd = [word for word in range(2**base) if word.bit_count() >= 3 and word.bit_count() % 2]
        return tuple(odd[: count - base]) if len(odd) >= count - base else None
    # effects, all clear of each other
    told_apart = sum(math.comb(count, size) for size in range((resolution - 1) // 2 + 1))
    if told_apart > 2**base or (count > base + 1 and _search(base, count - 1, resolution) is None):
        return None
    return next(_choices(base, count, resolution), None)


def _fewest_short_words(base: int, count: int, resolution: int) -> tuple[int, ...]:
    """Of the choices that are met first, the one with the fewest words of the shortest length, then of the next."""
    best = _search(base, count, resolution)
    assert best is not None

    def lengths(generators: tuple[int, ...]) -> list[int]:
        words = Fraction(tuple(ascii_letters[:count]), base, generators).words
        return [sum(word.bit_count() == length for word in words) for length in range(1, count + 1)]

    return min(itertools.chain([best], _choices(base, count, resolution, NODES)), key=lengths)


def _choices(base: int, count: int, resolution: int, nodes: int | None = None) -> Iterator[tuple[int, ...]]:
    """Every set of generators whose words all have `resolution` factors or more; at most `nodes` steps of the search."""
    candidates = [word for word in range(2**base) if word.bit_count() >= resolution - 1]
    left = itertools.count() if nodes is None else iter(range(nodes))

    def grow(chosen: tuple[int, ...], words: list[int], start: int) -> Iterator[tuple[int, ...]]:
        if len(chosen) == count - base:
            yield chosen
            return
        for place in range(start, len(candidates)):
            if next(left, None) is None:
                return
            own = candidates[place] | 1 << (base + len(chosen))
            new = [word ^ own for word in words]
            if all(word.bit_count() >= resolution for word in new):
                yield from grow((*chosen, candidates[place]), words + new, place + 1)

    return grow((), [0], 0)


def _effects(count: int, order: int) -> Iterator[int]:
    for size in range(order + 1):
        for factors in itertools.combinations(range(count), size):
            yield sum(1 << factor for factor in factors)


def _given(names: tuple[str, ...], texts: Sequence[str]) -> Fraction:
    base = len(names) - len(texts)
    example = "write LATER=EARLIER*EARLIER for each of the last factors in their order, e.g. D=A*B or D=AB"
    if base < 1:
        raise ValueError(f"design generators: {len(texts)} of them for {len(names)} factors; {example}")
    if base > MAX_BASE:
        raise ValueError(f"design generators make {2**base} runs, allowed are {2**MAX_BASE}; give more of them")
    found = []
    for number, text in enumerate(texts):
        left, equals, right = (part.strip() for part in text.partition("="))
        later = base + number
        if not equals or _places(left, names) != [later]:
            raise ValueError(
                f"design generator {text!r}: expected {names[later]} (or {ascii_letters[26 + later]}) = ...; {example}"
            )
        places = _places(right, names)
        if places is None or not places or max(places) >= base or len(set(places)) < len(places):
            raise ValueError(
                f"design generator {text!r}: the right side names some of {', '.join(names[:base])}, each at most once; {example}"
            )
        found.append(sum(1 << place for place in places))
    return Fraction(names, base, tuple(found))


def _places(text: str, names: tuple[str, ...]) -> list[int] | None:
    """Which factors `text` multiplies: names joined by "*", or letters A, B, ... in the order of the factors."""
    parts = [part.strip() for part in text.split("*")]
    if all(part in names for part in parts):
        return [names.index(part) for part in parts]
    letters = re.sub(r"[\s*]", "", text)
    places = [ord(letter) - ord("A") for letter in letters]
    return places if letters and all(0 <= place < len(names) for place in places) else None
