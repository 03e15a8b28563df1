from search.data.config import DataConfig
from search.data.images import load_data
from search.data.loaders import image_loaders


def test_all_splits_from_a_config() -> None:
    config = DataConfig(batch_size=64, eval_batch_size=100, flip=True, crop_padding=1)
    loaders = image_loaders(load_data(config, with_test=False), config, seed=1)
    assert (len(loaders.train), loaders.train.samples) == (16, 1024)
    assert [len(labels) for _, labels in loaders.val] == [100, 100, 100, 59]
    assert loaders.test is None
    assert loaders.info.classes == tuple("0123456789")
    with_test = image_loaders(load_data(config, with_test=True), config, seed=1)
    assert with_test.test is not None
    assert with_test.test.samples == 359
