import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search.data.keyed import generator, key, keyed

PARTS = st.lists(st.integers(-(2**70), 2**70) | st.text("abc 0", max_size=4), min_size=1, max_size=4)


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@given(PARTS, PARTS)
def test_a_key_has_63_bits_and_is_one_of_its_parts(parts: list[object], others: list[object]) -> None:
    assert 0 <= key(*parts) < 2**63
    assert (key(*parts) == key(*others)) == (list(map(str, parts)) == list(map(str, others)))


@pytest.mark.slow
def test_a_key_is_the_same_in_every_process_and_for_every_type_of_number() -> None:
    code = "from search.data.keyed import key; print(key(3, 'order', 7))"
    there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(there) == key(3, "order", 7) == key(np.int64(3), "order", torch.tensor(7).item()) == 1474164121173355961


@given(PARTS)
def test_draws_hang_on_the_key_alone_and_the_generators_go_on_undisturbed(parts: list[object]) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draws(), draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = draws()
    with keyed(*parts):
        inside = draws()
    assert (before, draws()) == expected
    with keyed(*parts):
        assert draws() == inside
    with keyed(*parts, "more"):
        assert draws() != inside


def test_the_generators_are_put_back_after_an_error() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="shape"), keyed(5):
        torch.rand(3).view(torch.Size([2]))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_generator_of_its_own_leaves_the_global_one_alone() -> None:
    state = torch.get_rng_state()
    first, again = (torch.rand(4, generator=generator(2, "flip")) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.rand(4, generator=generator(3, "flip")))
    assert torch.equal(torch.get_rng_state(), state)
