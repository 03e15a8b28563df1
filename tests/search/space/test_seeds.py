from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from search.space.seeds import BLOCK, first_seed_of


def test_a_study_has_seeds_of_its_own_and_always_the_same() -> None:
    assert first_seed_of("toy", "final") == 601_537_000
    firsts = {first_seed_of(name, phase) for name in map(str, range(50)) for phase in ("final", "design")}
    assert len(firsts) == 100
    assert all(first % BLOCK == 0 and 1_000_000 <= first < 2**31 for first in firsts)


def test_what_was_begun_goes_on() -> None:
    assert first_seed_of("toy", "final", there=[1004, 1000, 1002]) == 1000


@given(st.sets(st.integers(0, 3000), max_size=40))
def test_no_seed_is_one_of_the_search(near: set[int]) -> None:
    searched = {first_seed_of("toy", "final") + offset for offset in near}
    first = first_seed_of("toy", "final", (), searched)
    assert not searched & set(range(first, first + BLOCK))
