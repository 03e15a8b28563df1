"""scikit-learn's handwritten digits: 1797 real images of 8x8 that come inside a dependency."""

import sklearn
import torch
from sklearn.datasets import load_digits

from search.data.config import DataConfig
from search.data.images import ImageSet

MAX_VALUE = 16  # the original pixels count ink in 4x4 cells


def load(config: DataConfig) -> ImageSet:
    """The digits as images of shape (1797, 1, 8, 8), values 0 to 255, without an official test part."""
    digits = load_digits()
    ink = torch.from_numpy(digits.images)
    return ImageSet(
        images=(ink * (255 / MAX_VALUE)).round().to(torch.uint8).unsqueeze(1),  # 1797, 8, 8 -> 1797, 1, 8, 8
        labels=torch.from_numpy(digits.target).long(),
        classes=tuple(str(name) for name in digits.target_names),
        source=f"scikit-learn {sklearn.__version__}",
    )
