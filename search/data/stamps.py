"""Photographic stamps of the Debian package tuxpaint-stamps-default (GPL-2), which `stamp_scenes` shows: cut out once, and kept small.

Of the package, 161 MB, nothing is kept but these pictures; it is neither installed nor a part of this project.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from search.data import published
from search.data.cache import Decoded, cached, open_picture
from search.data.config import DataConfig

FORMAT = 1  # of what is kept: with another one they are cut out anew, and `FORMAT` of scenes has to change too
PACKAGE = "tuxpaint-stamps-default"
SIDE = 192  # pixels that the longer side of a stamp has at most
LEAST = 4  # stamps of a class: with fewer a part would have none of it
CLASSES = {  # and their folders in the package
    "mammal": ("animals/mammals", "animals/marsupials"),
    "bird": ("animals/birds",),
    "produce": ("food/fruit", "food/vegetables", "food/nuts"),
    "flower": ("plants/flowers",),
    "vehicle": ("vehicles", "military/vehicles"),
}
# Parts of paths: no photographs, not of the whole of an object, or of another stamp mirrored, which must not be in another part.
LEFT_OUT = (
    *("cartoon", "toys", "plastic", "orca", "whale", "echidna", "hedgehog"),
    *("7spoke", "wheel_", "sedan_police", "chineseJunk", "walnutBoat", "_mirror"),
)


def load(config: DataConfig) -> Decoded:
    """All stamps as RGBA, uint8 (N, 4, SIDE, SIDE), each in the upper left corner, and their labels in the order of `CLASSES`.

    Raises:
        ValueError: the package cannot be had or has not enough of them, or `data.root` cannot be written.
    """
    place = Path(config.root).expanduser() / "stamps"
    return cached(place / f"v{FORMAT}", lambda scratch: _build(place, scratch, config))


def _build(place: Path, scratch: Path, config: DataConfig) -> Decoded:
    inside = published.unpacked(PACKAGE, place, scratch, config, "data.name=stamp_scenes", "data=digit_scenes")
    stamps = inside / "usr/share/tuxpaint/stamps"
    pictures, labels = [], list[int]()
    for label, (name, folders) in enumerate(CLASSES.items()):
        files = sorted(path.relative_to(stamps) for folder in folders for path in (stamps / folder).rglob("*.png"))
        files = [file for file in files if not any(part in file.as_posix() for part in LEFT_OUT)]
        if len(files) < LEAST:
            raise ValueError(
                f"{PACKAGE} has {len(files)} stamps of the class {name}, and {LEAST} are needed. Put another release of it into "
                f"{place.resolve()}."
            )
        pictures += [_small(open_picture(stamps / file, "RGBA")) for file in files]
        labels += [label] * len(files)
    source = f"stamps of the Debian package {PACKAGE}"
    return Decoded(np.stack(pictures).transpose(0, 3, 1, 2), np.array(labels), source)


def _small(stamp: Image.Image) -> np.ndarray:
    """No wider than where it is more than half opaque, its longer side `SIDE` at most; uint8 (SIDE, SIDE, 4)."""
    stamp = stamp.crop(stamp.getchannel("A").point([0] * 128 + [255] * 128).getbbox())
    factor = min(SIDE / max(stamp.size), 1)
    whole = Image.new("RGBA", (SIDE, SIDE))
    whole.paste(stamp.resize([max(round(extent * factor), 1) for extent in stamp.size], Image.Resampling.BILINEAR))
    return np.asarray(whole)


def cut(pixels: np.ndarray, random: np.random.RandomState) -> Image.Image:
    """One of `load`, uint8 (4, SIDE, SIDE), as RGBA picture no wider than what can be seen of it."""
    stamp = Image.fromarray(pixels.transpose(1, 2, 0))
    return stamp.crop(stamp.getbbox())
