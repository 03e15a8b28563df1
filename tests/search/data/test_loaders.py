import pytest
import torch
from torch import Tensor

from search.data.config import DataConfig
from search.data.images import DataInfo, TensorPair, load_data
from search.data.loaders import MemoryLoader, crop, memory_loaders

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
    flip: bool = False,
    crop_padding: int = 0,
    rank: int = 0,
    world: int = 1,
) -> MemoryLoader:
    config = DataConfig(batch_size=batch_size, eval_batch_size=batch_size, flip=flip, crop_padding=crop_padding)
    return MemoryLoader(pair(count), INFO, config, training=training, seed=seed, rank=rank, world=world)


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
    moved = crop(image, torch.tensor([0]), torch.tensor([2]), 1)
    assert moved.tolist() == [[[[0, 0, 0], [1, 2, 0]]]]
    assert torch.equal(crop(image, torch.tensor([1]), torch.tensor([1]), 1), image)


def test_a_batch_larger_than_the_data_is_refused_in_training_only() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size=21 cannot be had from 20 images"):
        batches(batch_size=21)
    assert len(batches(batch_size=21, training=False)) == 1


def test_all_splits_from_a_config() -> None:
    config = DataConfig(batch_size=64, eval_batch_size=100, flip=True, crop_padding=1)
    loaders = memory_loaders(load_data(config, with_test=False), config, seed=1)
    assert (len(loaders.train), loaders.train.samples) == (16, 1024)
    assert [len(labels) for _, labels in loaders.val] == [100, 100, 100, 59]
    assert loaders.test is None
    assert loaders.info.classes == tuple("0123456789")
    with_test = memory_loaders(load_data(config, with_test=True), config, seed=1)
    assert with_test.test is not None
    assert with_test.test.samples == 359


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


def test_a_place_that_the_epoch_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="batch 3 of an epoch of 2"):
        batches().at(1, 3)


def test_a_sample_is_what_a_loader_of_that_batch_size_would_give_first() -> None:
    images, labels = batches(batch_size=8, flip=True, crop_padding=2, seed=4).sample(5)
    other, names = next(iter(batches(batch_size=5, flip=True, crop_padding=2, seed=4)))
    assert torch.equal(images, other)
    assert torch.equal(labels, names)
    assert len(batches(batch_size=8).sample(99)[1]) == 8


@pytest.mark.parametrize("training", [True, False])
def test_ranks_share_each_batch(training: bool) -> None:
    def made(**ranks: int) -> MemoryLoader:
        return batches(training=training, flip=True, crop_padding=2, **ranks)

    whole = list(made())
    shares = [list(made(rank=rank, world=2)) for rank in (0, 1)]
    assert {made(rank=rank, world=2).samples for rank in (0, 1)} == {made().samples}
    for (images, labels), *parts in zip(whole, *shares, strict=True):
        for rank, (share, names) in enumerate(parts):
            assert torch.equal(share, images[rank::2])
            assert torch.equal(names, labels[rank::2])
