"""Which seeds a re-evaluation or a design trains on where nobody says: those that belong to its study alone."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

__all__ = ["BLOCK", "first_seed_of"]

BLOCK = 1000  # seeds that belong to one study and phase
BLOCKS = 1_000_000
SMALLEST = 1_000_000  # below lie the seeds that people write


def first_seed_of(study: str, phase: str, there: Iterable[int] = (), searched: Collection[int] = ()) -> int:
    """The first seed of a study's phase: the first of those that it has been trained on already, else the name's own.

    Args:
        study: the study's name; two names share a seed once in a million.
        phase: what is trained on the seeds, "final" or "design".
        there: seeds that the phase stands on already.
        searched: seeds that the search trains on; the block that is returned holds none of them.
    """
    begun = min(there, default=None)
    if begun is not None:
        return begun
    digest = hashlib.blake2b(f"{study}\0{phase}".encode(), digest_size=8).digest()
    block = int.from_bytes(digest, "big") % BLOCKS
    while any(0 <= seed - (SMALLEST + BLOCK * block) < BLOCK for seed in searched):
        block = (block + 1) % BLOCKS
    return SMALLEST + BLOCK * block
