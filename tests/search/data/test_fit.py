import pytest
import torch

from search.data.fit import match_channels, mean_and_std, resize


def noise(channels: int, size: int = 8, count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


def test_own_size_is_untouched() -> None:
    images = noise(3)
    assert resize(images, 8) is images
    assert match_channels(images, 3) is images


@pytest.mark.parametrize("size", [4, 16, 31])
def test_resize_keeps_type_brightness_and_flat_images(size: int) -> None:
    small = resize(noise(3), size)
    assert small.shape == (6, 3, size, size)
    assert small.dtype == torch.uint8
    assert small.float().mean().item() == pytest.approx(noise(3).float().mean().item(), abs=3)
    assert (resize(torch.full((2, 1, 8, 8), 77, dtype=torch.uint8), size) == 77).all()


def test_grey_to_colour_and_back() -> None:
    grey = noise(1)
    colour = match_channels(grey, 3)
    assert colour.shape == (6, 3, 8, 8)
    assert torch.equal(match_channels(colour, 1), grey)


def test_mean_and_std_are_those_of_torch() -> None:
    images = noise(3)
    mean, std = mean_and_std(images)
    values = images.double().div(255).transpose(0, 1).flatten(1)
    assert mean == pytest.approx(values.mean(1).tolist())
    assert std == pytest.approx(values.std(1, correction=0).tolist())


def test_a_flat_channel_can_be_divided_by() -> None:
    assert mean_and_std(torch.full((2, 1, 4, 4), 51, dtype=torch.uint8)) == ((pytest.approx(0.2),), (1 / 255,))
