import pytest
import timm
import torch
from torch import nn

from xvol.probe import at_rest, run_blank_image


def test_every_module_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    model[1].eval()
    seen: list[bool] = []

    def die() -> None:
        with at_rest(model):
            seen.extend([torch.is_grad_enabled(), *(module.training for module in model.modules())])
            raise KeyError

    with pytest.raises(KeyError):
        die()
    assert not any(seen)
    assert len(seen) == 5
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert torch.is_grad_enabled()


def test_a_run_leaves_statistics_and_random_numbers_alone() -> None:
    model = timm.create_model("xvol_proxy_resnet", drop_rate=0.5).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    run_blank_image(model, (3, 32, 32))
    assert torch.equal(stream, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_the_image_has_the_models_dtype() -> None:
    run_blank_image(timm.create_model("xvol_proxy_resnet").double(), (3, 32, 32))


@pytest.mark.parametrize("size", [(3, 32), (3, 0, 32), (3, 32.0, 32), (True, 32, 32)])
def test_sizes_that_are_none(size: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"must be \(channels, height, width\)"):
        run_blank_image(nn.Identity(), size)


def test_an_image_that_does_not_go_through() -> None:
    with pytest.raises(ValueError, match=r"input_size=\(3, 32, 32\).*does not go through ProxyResNet"):
        run_blank_image(timm.create_model("xvol_proxy_resnet", in_chans=1), (3, 32, 32))
