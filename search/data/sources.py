"""The table of data sources, and which tasks they fit. Free of torch.

An installed package adds a source with one line, an entry point of the group `xvol.data` that names a module with
`load(config: DataConfig)`, which gives an `ImageSet`, or a `PictureSet` where pictures are decoded on the way:

    [project.entry-points."xvol.data"]
    leaves = "my_package.leaves"

It is chosen by `data.name=leaves data.image_size=64`, and `data.channels` where its images are not in colour.
"""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points

from search.ledger.metric import CLASSIFY, DETECTORS

ENTRY_POINTS = "xvol.data"


@dataclass(frozen=True)
class Source:
    """A data set, before it is loaded.

    Attributes:
        module: has `load(config: DataConfig)`.
        image_size: usual height and width in pixels; None where the config has to say.
        channels: of its images, 1 or 3.
        takes_path: whether it reads the user's own pictures, at `data.path`.
        annotated: whether its pictures have objects with boxes in them, and `load` gives an `AnnotatedSet`.
        makes: how many scenes of train, val and test it makes where the config does not say; none are made of what is there already.
    """

    module: str
    image_size: int | None = None
    channels: int = 3
    takes_path: bool = False
    annotated: bool = False
    makes: tuple[int, int, int] | None = None


SOURCES = {
    "digits": Source("search.data.digits", image_size=16, channels=1),
    "fashion_mnist": Source("search.data.published", image_size=28, channels=1),
    "cifar10": Source("search.data.published", image_size=32),
    "folder": Source("search.data.folder", takes_path=True),
    "tar": Source("search.data.tar", takes_path=True),
    "hfds": Source("search.data.hfds", takes_path=True),
    "coco": Source("search.data.coco", takes_path=True, annotated=True),
    "garment_scenes": Source("search.data.scenes", image_size=128, annotated=True, makes=(2000, 1000, 1000)),
    "stamp_scenes": Source("search.data.scenes", image_size=128, annotated=True, makes=(2000, 1000, 1000)),
    "digit_scenes": Source("search.data.scenes", image_size=64, annotated=True, makes=(240, 120, 120)),
}


@cache  # looking through all installed packages takes milliseconds, and each trial asks several times
def _installed() -> dict[str, Source]:
    return {point.name: Source(point.value) for point in entry_points(group=ENTRY_POINTS)}


def source_names() -> tuple[str, ...]:
    """All data sources, those of installed packages last."""
    return tuple(dict.fromkeys([*SOURCES, *_installed()]))


def source_of(name: str) -> Source:
    """The source of a name that there is; none of an installed package takes the place of one of ours."""
    return SOURCES.get(name) or _installed()[name]


def check_fits(task: str, name: str) -> None:
    """Raise ValueError where a task needs boxes that the pictures of a source have not, or labels that they have not.

    What tasks of installed packages need is not known, and what they learn from is theirs to refuse.
    """
    annotated = [known for known, source in SOURCES.items() if source.annotated]
    if task in DETECTORS and not source_of(name).annotated:
        raise ValueError(
            f"task={task} learns from objects with boxes, and the images of data.name={name} have a label each and no boxes. Take "
            f"data={', data='.join(annotated)}, or task=classify."
        )
    if task == CLASSIFY and source_of(name).annotated:
        raise ValueError(
            f"data.name={name} has pictures with several objects in them, and task=classify learns one label an image. Take "
            f"task={' or task='.join(DETECTORS)}, or other data."
        )
