"""The table of data sources: what a data set is called, and the module that loads it. No torch in here.

An installed package adds its own with one line, an entry point of the group `xvol.data` that names a module with
`load(config: DataConfig) -> ImageSet`:

    [project.entry-points."xvol.data"]
    leaves = "my_package.leaves"

It is chosen by `data.name=leaves data.image_size=64`, and `data.channels` where its images are not in colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

__all__ = ["SOURCES", "Source", "source_module", "source_names"]

ENTRY_POINTS = "xvol.data"


@dataclass(frozen=True)
class Source:
    """A data set, before it is loaded.

    Attributes:
        module: has `load(config: DataConfig) -> ImageSet`.
        image_size: usual height and width in pixels; None where the config has to say.
        channels: of its images, 1 or 3.
    """

    module: str
    image_size: int | None = None
    channels: int = 3


SOURCES = {
    "digits": Source("search.data.digits", image_size=16, channels=1),
    "fashion_mnist": Source("search.data.fashion_mnist", image_size=28, channels=1),
    "cifar10": Source("search.data.cifar10", image_size=32),
    "image_folder": Source("search.data.image_folder"),
}


def _installed() -> dict[str, Source]:
    return {point.name: Source(point.value) for point in entry_points(group=ENTRY_POINTS)}


def source_names() -> tuple[str, ...]:
    """All data sources, those of installed packages last."""
    return tuple(dict.fromkeys([*SOURCES, *_installed()]))


def source_of(name: str) -> Source:
    """The source of a name that there is; none of an installed package takes the place of one of ours."""
    return SOURCES.get(name) or _installed()[name]


def source_module(name: str) -> Any:
    """Import the module that loads a data set."""
    return import_module(source_of(name).module)
