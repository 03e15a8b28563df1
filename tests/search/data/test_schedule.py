from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search.data.schedule import Schedule, alternating

COUNTS = st.integers(1, 40)


def pairs(schedule: Schedule) -> list[list[tuple[int, int]]]:
    return [list(zip(index.tolist(), turn.tolist(), strict=True)) for index, turn in schedule]


@given(COUNTS, st.integers(1, 40), st.integers(1, 4), st.integers(0, 3), st.integers(1, 4), st.booleans(), st.data())
def test_ranks_and_steps_cut_what_seed_and_epoch_have_laid_out(
    count: int, size: int, repeats: int, epoch: int, world: int, training: bool, data: st.DataObject
) -> None:
    size = min(size, count)

    def made(rank: int = 0, world: int = 1, seed: int = 3) -> Schedule:
        schedule = Schedule(count, size, training=training, seed=seed, repeats=repeats, rank=rank, world=world)
        schedule.at(epoch, 0)
        return schedule

    whole = pairs(made())
    assert len(whole) == len(made())
    assert sum(map(len, whole)) == made().samples
    flat = [pair for batch in whole for pair in batch]
    assert len(set(flat)) == len(flat)
    if not training:
        assert flat == [(index, 0) for index in range(count)]
    step = data.draw(st.integers(0, len(whole)))
    late = made()
    late.at(epoch, step)
    assert pairs(late) == whole[step:]
    parts = [pairs(made(rank, world)) for rank in range(world)]
    assert parts == [[batch[rank::world] for batch in whole if batch[rank::world]] for rank in range(world)]


def test_the_order_is_another_in_each_epoch_and_for_each_seed() -> None:
    orders = [Schedule(50, 5, training=True, seed=seed).of(epoch)[0] for seed, epoch in ((0, 1), (1, 0), (0, 2))]
    assert all(torch.equal(order.sort().values, torch.arange(50)) for order in orders)
    assert not any(torch.equal(one, other) for one, other in pairwise(orders))


@pytest.mark.parametrize(("count", "size"), [(0, 4), (3, 4)])
def test_what_cannot_be_had_is_refused(count: int, size: int) -> None:
    with pytest.raises(ValueError, match=rf"batch_size={size} cannot be had from {count} images"):
        Schedule(count, size, training=True, seed=0)


@given(st.integers(1, 4), COUNTS, st.integers(0, 9), st.integers(0, 5))
def test_alternating_sides_change_with_each_view_of_an_image(turns: int, count: int, seed: int, epoch: int) -> None:
    sides = alternating((turns, count), seed, epoch)
    assert torch.equal(sides, ~alternating((turns, count), seed, epoch + 1))
    assert torch.equal(sides[1:], ~sides[:-1])
    assert torch.equal(sides[0], alternating((1, count), seed, epoch)[0])


def test_the_first_side_is_drawn_by_the_seed() -> None:
    one, other = (alternating((1, 1000), seed) for seed in (0, 1))
    assert 400 < int(one.sum()) < 600
    assert 400 < int((one ^ other).sum()) < 600
