import sklearn
import torch
from sklearn.datasets import load_digits

from search.data import digits
from search.data.config import DataConfig


def test_digits_are_whole_and_use_the_whole_range() -> None:
    images = digits.load(DataConfig())
    assert images.images.shape == (1797, 1, 8, 8)
    assert images.images.dtype == torch.uint8
    assert (images.images.min(), images.images.max()) == (0, 255)
    assert images.labels.dtype == torch.int64
    assert torch.bincount(images.labels).min() > 170
    assert images.classes == tuple("0123456789")
    assert images.source.startswith("scikit-learn ")
    assert (images.official_val, images.official_test, images.mean) == (0, 0, None)


def test_they_are_what_scikit_learn_reads() -> None:
    own, theirs = digits.load(DataConfig()), load_digits()
    assert torch.equal(own.labels, torch.from_numpy(theirs.target))
    assert torch.equal(own.images[:, 0], torch.from_numpy(theirs.images * (255 / 16)).round().to(torch.uint8))
    assert own.source == f"scikit-learn {sklearn.__version__}"
