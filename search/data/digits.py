"""scikit-learn's handwritten digits: 1797 real images of 8x8 that come inside a dependency."""

from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from search.data.config import DataConfig
from search.data.images import ImageSet

MAX_VALUE = 16  # the original pixels count ink in 4x4 cells
FILE = Path("datasets", "data", "digits.csv.gz")


def load(config: DataConfig) -> ImageSet:
    """The digits as images of shape (1797, 1, 8, 8), values 0 to 255, without an official test part."""
    table = _table()
    ink = table[:, :-1].reshape(-1, 1, 8, 8).double()
    return ImageSet(
        images=(ink * (255 / MAX_VALUE)).round().to(torch.uint8),
        labels=table[:, -1].long(),
        classes=tuple(str(name) for name in range(10)),
        source=f"scikit-learn {version('scikit-learn')}",
    )


@cache
def _table() -> torch.Tensor:
    """64 pixels and a label of each digit, uint8, as `sklearn.datasets.load_digits` reads them.

    From the file itself: with its importing of SciPy and pandas, scikit-learn takes longer than a training on the digits.
    """
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(
            "data=digits are images of scikit-learn, which is not installed: pip install scikit-learn"
        )
    file = Path(package.submodule_search_locations[0]) / FILE
    return torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
