from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.nn.functional import interpolate

from search.data.config import Augmentation, DataConfig
from search.data.images import DataInfo, TensorPair, load_data
from search.data.keyed import keyed
from search.data.memory import MemoryLoader, crop, crop_and_resize, random_boxes

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


def pair(count: int = 20, size: int = 5) -> TensorPair:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(1, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return TensorPair(images, torch.arange(count))


INFO = DataInfo(("one",), 3, 5, MEAN, STD, "a test", "0123456789")


def batches(
    count: int = 20,
    batch_size: int = 8,
    *,
    training: bool = True,
    seed: int = 0,
    flip: bool | str = False,
    crop_padding: int = 0,
    rank: int = 0,
    world: int = 1,
    **drawn: Any,
) -> MemoryLoader:
    config = DataConfig(batch_size=batch_size, eval_batch_size=batch_size, flip=flip, crop_padding=crop_padding)
    augmentation = Augmentation(**drawn)
    return MemoryLoader(pair(count), INFO, config, augmentation, training=training, seed=seed, rank=rank, world=world)


def normalised(images: Tensor) -> Tensor:
    return (images / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def raw(images: Tensor) -> Tensor:
    """Undo the normalisation."""
    back = (images * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)) * 255
    return back.round().to(torch.uint8)


def test_evaluation_sees_every_image_once_in_order() -> None:
    loader = batches(training=False, flip=True, crop_padding=2)
    got = list(loader)
    assert [len(labels) for _, labels in got] == [8, 8, 4]
    assert (len(loader), loader.samples) == (3, 20)
    images = torch.cat([images for images, _ in got])
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, normalised(pair().images), atol=1e-5, rtol=1e-5)
    assert torch.equal(torch.cat([labels for _, labels in got]), pair().labels)


def test_training_shuffles_and_drops_the_incomplete_batch() -> None:
    loader = batches()
    seen = torch.cat([labels for _, labels in loader]).tolist()
    assert (len(loader), loader.samples) == (2, 16)
    assert len(set(seen)) == len(seen) == 16
    assert seen != sorted(seen)


def test_images_keep_their_labels() -> None:
    for images, labels in batches():
        torch.testing.assert_close(images, normalised(pair().images[labels]), atol=1e-5, rtol=1e-5)


def epoch(loader: MemoryLoader, number: int, disturb: bool = False) -> Tensor:
    images = []
    for batch, _ in loader.at(number):
        images.append(batch)
        if disturb:
            torch.rand(7)  # a model with dropout
    return torch.cat(images)


def test_seed_and_epoch_alone_decide() -> None:
    def fresh(seed: int) -> MemoryLoader:
        return batches(seed=seed, flip=True, crop_padding=2)

    first = epoch(fresh(5), 1)
    assert torch.equal(first, epoch(fresh(5), 1, disturb=True))
    loader = fresh(5)
    epoch(loader, 0)
    assert torch.equal(first, epoch(loader, 1))
    assert not torch.equal(first, epoch(fresh(5), 2))
    assert not torch.equal(first, epoch(fresh(6), 1))
    assert not torch.equal(first, epoch(fresh(1), 5))


def test_the_global_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    epoch(batches(flip=True, crop_padding=2), 0)
    assert torch.equal(before, torch.get_rng_state())


def test_the_order_does_not_hang_on_the_augmentation() -> None:
    plain = [labels for _, labels in batches(seed=4)]
    augmented = [labels for _, labels in batches(seed=4, flip=True, crop_padding=2)]
    assert all(torch.equal(one, other) for one, other in zip(plain, augmented, strict=True))


def test_flip_gives_the_image_or_its_mirror() -> None:
    mirrored = 0
    for images, labels in batches(count=200, flip=True):
        for image, label in zip(raw(images), labels, strict=True):
            original = pair(200).images[label]
            mirrored += torch.equal(image, original.flip(2))
            assert torch.equal(image, original) or torch.equal(image, original.flip(2))
    assert 60 < mirrored < 140


def test_crop_gives_every_shift_within_the_padding_and_no_other() -> None:
    padding, shifts = 1, set()
    padded = torch.nn.functional.pad(pair(200).images, (padding,) * 4)
    for images, labels in batches(count=200, crop_padding=padding):
        for image, label in zip(raw(images), labels, strict=True):
            found = [
                (top, left)
                for top in range(3)
                for left in range(3)
                if torch.equal(image, padded[label, :, top : top + 5, left : left + 5])
            ]
            assert len(found) == 1
            shifts.add(found[0])
    assert len(shifts) == 9


def test_crop_on_an_oblong_image() -> None:
    image = torch.arange(6).view(1, 1, 2, 3)
    as_it_is, mirrored = torch.tensor([False]), torch.tensor([True])
    moved = crop(image, torch.tensor([0]), torch.tensor([2]), 1, as_it_is)
    assert moved.tolist() == [[[[0, 0, 0], [1, 2, 0]]]]
    assert torch.equal(crop(image, torch.tensor([1]), torch.tensor([1]), 1, as_it_is), image)
    assert torch.equal(crop(image, torch.tensor([0]), torch.tensor([2]), 1, mirrored), moved.flip(3))


def test_a_batch_larger_than_the_data_is_refused_in_training_only() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size=21 cannot be had from 20 images"):
        batches(batch_size=21)
    assert len(batches(batch_size=21, training=False)) == 1


def test_training_images_are_normalised_by_their_own_statistics() -> None:
    config = DataConfig(batch_size=64)
    loaded = load_data(config, with_test=False)
    unchanged = MemoryLoader(loaded.train, loaded.info, config, training=False)
    assert torch.cat([images for images, _ in unchanged]).mean().item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_an_epoch_goes_on_where_another_loader_left_it(done: int) -> None:
    def fresh() -> MemoryLoader:
        return batches(count=28, flip=True, crop_padding=2, seed=4)

    expected = list(fresh().at(3))
    assert len(expected) == 3
    loader = fresh().at(3, done)
    for _ in range(2):  # each iteration begins there
        rest = list(loader)
        assert len(rest) == 3 - done
        for (images, labels), (other, names) in zip(rest, expected[done:], strict=True):
            assert torch.equal(images, other)
            assert torch.equal(labels, names)
    assert all(torch.equal(images, other) for (images, _), (other, _) in zip(loader.at(3), expected, strict=True))


def by_image(loader: MemoryLoader, number: int) -> dict[tuple[int, int], Tensor]:
    """The pixels of an epoch by (label, which of its turns); each image has a label of its own."""
    found: dict[tuple[int, int], Tensor] = {}
    for images, labels in loader.at(number):
        for image, label in zip(images, labels.tolist(), strict=True):
            turn = sum(1 for name, _ in found if name == label)
            found[label, turn] = image
    return found


@given(
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=2),
    number=st.integers(0, 5),
    drawn=st.sampled_from([{}, {"scale": [0.2, 1.0]}, {"ratio": [0.5, 2.0], "repeats": 3}]),
)
def test_no_batch_size_changes_an_image(sizes: list[int], number: int, drawn: dict[str, Any]) -> None:
    one, other = (by_image(batches(batch_size=size, flip=True, crop_padding=2, **drawn), number) for size in sizes)
    assert one.keys() & other.keys()
    for name in one.keys() & other.keys():
        assert torch.equal(one[name], other[name])


def test_the_draws_of_one_kind_do_not_hang_on_another() -> None:
    flipped = by_image(batches(flip=True), 2)
    both = by_image(batches(flip=True, scale=[1.0, 1.0], ratio=[1.0, 1.0]), 2)  # a crop that is the whole
    for name, image in flipped.items():
        torch.testing.assert_close(both[name], image, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("repeats", [2, 3])
def test_repeats_draw_an_image_anew_in_one_epoch_of_the_same_length(repeats: int) -> None:
    loader = batches(count=24, batch_size=6, flip=True, crop_padding=2, repeats=repeats)
    got = list(loader)
    labels = torch.cat([labels for _, labels in got])
    assert (len(got), len(labels)) == (4, 24)
    assert labels.bincount(minlength=24).unique().tolist() == [0, repeats]
    images = torch.cat([images for images, _ in got])
    assert not all(torch.equal(images[at], images[at + 1]) for at in range(0, 24, repeats))


def test_a_random_crop_is_the_box_resized() -> None:
    images = pair(6, size=9).images
    boxes = torch.tensor([[0, 2, 1, 5, 0, 8], [0, 1, 3, 0, 4, 8], [9, 3, 8, 4, 1, 1], [9, 8, 2, 9, 5, 1]])
    got = crop_and_resize(images, boxes, torch.zeros(6, dtype=torch.bool))
    assert torch.equal(crop_and_resize(images, boxes, torch.ones(6, dtype=torch.bool)), got.flip(3))
    for image, (top, left, height, width), found in zip(images.float(), boxes.T.tolist(), got, strict=True):
        box = image[None, :, top : top + height, left : left + width]
        expected = interpolate(box, size=(9, 9), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-4)


def test_boxes_are_drawn_by_the_law_of_timm() -> None:
    size, scale, ratio = 32, (0.08, 1.0), (3 / 4, 4 / 3)
    ours = random_boxes((4000,), size, scale, ratio, torch.Generator().manual_seed(0)).double()
    picture = Image.new("L", (size, size))
    with keyed("boxes"):
        theirs = torch.tensor(
            [RandomResizedCropAndInterpolation.get_params(picture, scale, ratio) for _ in range(4000)]
        ).T.double()
    for mine, their in zip(ours, theirs, strict=True):
        error = ((mine.var() + their.var()) / 4000).sqrt()
        assert abs(float(mine.mean() - their.mean())) < 4 * float(error)
        assert float(mine.std()) == pytest.approx(float(their.std()), rel=0.05)
    assert bool(((ours[:2] >= 0) & (ours[:2] + ours[2:] <= size) & (ours[2:] >= 1)).all())


def test_where_no_box_fits_it_is_the_largest_about_the_centre() -> None:
    boxes = random_boxes((3, 2), 8, (1.0, 1.0), (2.0, 2.0), torch.Generator())
    assert boxes.shape == (4, 3, 2)
    assert boxes[:, 1, 1].tolist() == [2, 0, 4, 8]


def test_a_place_that_the_epoch_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="batch 3 of an epoch of 2"):
        batches().at(1, 3)


def test_a_sample_is_what_a_loader_of_that_batch_size_would_give_first() -> None:
    images, labels = batches(batch_size=8, flip=True, crop_padding=2, seed=4).sample(5)
    other, names = next(iter(batches(batch_size=5, flip=True, crop_padding=2, seed=4)))
    assert torch.equal(images, other)
    assert torch.equal(labels, names)
    assert len(batches(batch_size=8).sample(99)[1]) == 8
    on_a_rank, _ = batches(batch_size=8, flip=True, crop_padding=2, seed=4, rank=1, world=2).sample(5)
    # what a network is made by, such as a whitened convolution, is alike on all ranks
    assert torch.equal(on_a_rank, images)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("drawn", [{}, {"scale": [0.1, 0.9], "repeats": 2}])
def test_ranks_share_each_batch(training: bool, drawn: dict[str, Any]) -> None:
    def made(**ranks: int) -> MemoryLoader:
        return batches(training=training, flip=True, crop_padding=2, **drawn, **ranks)

    whole = list(made())
    shares = [list(made(rank=rank, world=2)) for rank in (0, 1)]
    assert {made(rank=rank, world=2).samples for rank in (0, 1)} == {made().samples}
    for (images, labels), *parts in zip(whole, *shares, strict=True):
        for rank, (share, names) in enumerate(parts):
            assert torch.equal(share, images[rank::2])
            assert torch.equal(names, labels[rank::2])


def test_an_alternating_flip_shows_the_other_side_in_the_next_epoch() -> None:
    plain, first, second, third = (
        by_image(batches(batch_size=20, flip=flip, seed=4), number)
        for flip, number in ((False, 1), ("alternate", 1), ("alternate", 2), ("alternate", 3))
    )
    assert len(plain) == 20
    mirrored = 0
    for name, image in plain.items():
        assert torch.equal(first[name], image) != torch.equal(first[name], image.flip(2))
        assert torch.equal(second[name], first[name].flip(2))
        assert torch.equal(third[name], first[name])
        mirrored += torch.equal(first[name], image.flip(2))
    assert 0 < mirrored < 20
    shares = [by_image(batches(batch_size=20, flip="alternate", seed=4, rank=rank, world=2), 1) for rank in (0, 1)]
    assert all(torch.equal(image, first[name]) for share in shares for name, image in share.items())
