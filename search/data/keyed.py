"""Randomness that hangs on a key, such as (seed, epoch, index of an image), and on nothing that was drawn before."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def key(*parts: object) -> int:
    """A number from 0 to 2**63 - 1 for numbers and words, the same in every process and version of Python.

    Parts count as they are written: 1 and "1" are one, (0, 1) and (1, 0) two.
    """
    written = "\0".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(written, digest_size=8).digest(), "big") >> 1


def reseed(*parts: object) -> None:
    """Seed Python's, numpy's and torch's global generators on the CPU by the key."""
    number = key(*parts)
    random.seed(number)
    np.random.seed(number % 2**32)
    # torch.manual_seed takes a hundred times as long: it queues calls to CUDA
    torch.default_generator.manual_seed(number)


@contextmanager
def restored() -> Iterator[None]:
    """Put the global generators back as they were, whatever is drawn or seeded inside."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextmanager
def keyed(*parts: object) -> Iterator[None]:
    """Let what is drawn inside from the global generators hang on the key alone; outside, they go on undisturbed."""
    with restored():
        reseed(*parts)
        yield


def generator(*parts: object) -> torch.Generator:
    """A generator of its own on the CPU, seeded by the key."""
    return torch.Generator().manual_seed(key(*parts))
