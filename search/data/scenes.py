"""Scenes of real cut-outs on real photographs, made once and kept as PNG and COCO's JSON: `garment_scenes` and others.

Train, validation and test share neither a cut-out nor a photograph nor a scene. Where there are the two photographs of scikit-learn
only, each is cut into three regions that do not overlap, one a part. A scene hangs on (split_seed, part, its number) alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import binary_fill_holes

from search.data import coco, digits, published, stamps
from search.data.annotated import AnnotatedSet
from search.data.cache import UnusableError, made, open_picture
from search.data.config import DataConfig, image_size
from search.data.keyed import key
from search.data.sources import SOURCES
from search.data.splits import PARTS
from search.ledger.files import digest, move

FORMAT = 1  # of scenes: another one makes them anew, below another folder
MOST = 4  # objects in a scene
VISIBLE = 1 / 3  # of an object at least
LEAST_PIXELS = 16  # of it
TILT = 15  # degrees to either side
SHARES = (0.6, 0.8)  # of cut-outs and photographs: train to the first, val to the second
PHOTO_SIDE = 640  # pixels that the shorter side of a photograph is brought down to


@dataclass(frozen=True)
class Objects:
    """Images of one part, uint8 (N, H, W), bright on black, or RGBA, (N, 4, H, W), and their labels from 0, int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Kind:
    """What scenes of one source are made of.

    Attributes:
        classes: names in label order.
        objects: those of each of `PARTS`, and where they came from, in words.
        cut: one of the images as RGBA picture that is opaque where the object is.
        sides: the smallest and the largest longer side of an object, as shares of the scene's.
        mirrors: whether half of the objects are mirrored.
    """

    classes: tuple[str, ...]
    objects: Callable[[DataConfig], tuple[Mapping[str, Objects], str]]
    cut: Callable[[np.ndarray, np.random.RandomState], Image.Image]
    sides: tuple[float, float]
    mirrors: bool


def load(config: DataConfig) -> AnnotatedSet:
    """The scenes, made if they are not there yet.

    Raises:
        ValueError: what they are made of cannot be had, or `data.root` cannot be written.
    """
    counts = dict(zip(PARTS, SOURCES[config.name].makes or (), strict=True))
    counts = {part: int(getattr(config, f"{part}_size") or count) for part, count in counts.items()}
    settings = [f"{image_size(config)}px", config.backgrounds, *counts.values(), f"seed{config.split_seed}"]
    folder = Path(config.root).expanduser() / "-".join(map(str, (config.name, f"v{FORMAT}", *settings)))
    return made(
        folder, lambda: _read(folder / "scenes"), lambda scratch: _make(folder / "scenes", scratch, counts, config)
    )


def _read(place: Path) -> AnnotatedSet:
    """The scenes as any COCO files, and by the digest of their pixels, which no other release of a PNG writer changes."""
    if not (place / "manifest.json").exists():
        raise UnusableError
    try:
        manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        found = {part: coco.read(place / f"{part}.json", place) for part in PARTS}
        if manifest["files"] != [each.digest for each in found.values()]:
            raise UnusableError("a file is not what was written")
        parts = {part: each.take(range(len(each.scenes))) for part, each in found.items()}
        return coco.annotated_set(found, parts, manifest["source"], manifest["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnusableError(f"{type(error).__name__}: {error}") from error


def _make(place: Path, scratch: Path, counts: Mapping[str, int], config: DataConfig) -> None:
    kind, size = KINDS[config.name], image_size(config)
    things, of_what = kind.objects(config)
    photographs, on_what = BACKGROUNDS[config.backgrounds](config, scratch)
    whole = scratch / "scenes"
    whole.mkdir()
    content = []
    for part, count in counts.items():
        (whole / part).mkdir()
        images, annotations, pixels = [], list[dict[str, Any]](), hashlib.sha256()
        for number in range(count):
            random = np.random.RandomState(key(config.split_seed, part, number) % 2**32)  # whose stream never changes
            canvas, objects = scene(kind, things[part], photographs[part], size, random)
            name = f"{part}/{number:05d}.png"
            canvas.save(whole / name, compress_level=1)
            pixels.update(canvas.tobytes())
            images.append({"id": number + 1, "file_name": name, "height": size, "width": size})
            for label, mask in objects:
                annotations.append(coco.annotation(len(annotations) + 1, number + 1, label + 1, mask))
        categories = [{"id": label, "name": name} for label, name in enumerate(kind.classes, start=1)]
        described = {"images": images, "annotations": annotations, "categories": categories}
        (whole / f"{part}.json").write_text(json.dumps(described), encoding="utf-8")
        content += [pixels.hexdigest(), described]
    files = [coco.read(whole / f"{part}.json", whole).digest for part in PARTS]
    manifest = {"source": f"scenes of {of_what} on {on_what}", "digest": digest(content), "files": files}
    (whole / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    if place.exists():  # damaged
        shutil.rmtree(place)
    move(whole, place)


def scene(
    kind: Kind,
    things: Objects,
    photographs: Sequence[Image.Image],
    size: int,
    random: np.random.RandomState,
) -> tuple[Image.Image, list[tuple[int, np.ndarray]]]:
    """Put objects on a part of a photograph, one over the other.

    Returns:
        The picture, `size` pixels a side, and of each object of which enough is seen its label and mask, bool (size, size), of what
        is seen.
    """
    photograph = photographs[random.randint(len(photographs))]
    short = min(photograph.size)
    side = random.randint(short // 2, short + 1)
    left, top = (random.randint(extent - side + 1) for extent in photograph.size)
    ground = photograph.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
    canvas = np.array(ground)[:, :: 1 - 2 * random.randint(2)].copy()
    placed: list[tuple[int, np.ndarray, int]] = []
    for _ in range(random.randint(1, MOST + 1)):
        at, (least, most) = random.randint(len(things.labels)), kind.sides
        side = size * least * (most / least) ** random.random_sample()
        pixels = _turned(kind.cut(things.images[at], random), side, kind.mirrors, random)
        # up to a fifth of it lies outside
        top, left = (
            random.randint(-(extent // 5), max(size - extent + extent // 5, 0) + 1) for extent in pixels.shape[:2]
        )
        whole = int((pixels[..., 3] > 127).sum())
        inside = pixels[max(-top, 0) : size - top, max(-left, 0) : size - left]
        rows, columns = (
            slice(max(start, 0), max(start, 0) + n) for start, n in zip((top, left), inside.shape, strict=False)
        )
        alpha = inside[..., 3:].astype(np.uint16)
        canvas[rows, columns] = (canvas[rows, columns] * (255 - alpha) + inside[..., :3] * alpha + 127) // 255
        mask = np.zeros((size, size), dtype=bool)
        mask[rows, columns] = inside[..., 3] > 127
        placed = [(label, seen & ~mask, count) for label, seen, count in placed]
        placed.append((int(things.labels[at]), mask, whole))
    shown = [(label, seen) for label, seen, count in placed if seen.sum() >= max(LEAST_PIXELS, VISIBLE * count)]
    return Image.fromarray(canvas), shown


def _turned(picture: Image.Image, side: float, mirrors: bool, random: np.random.RandomState) -> np.ndarray:
    """Bring the longer side to so many pixels, perhaps mirror, tilt, and change the brightness by up to a quarter; uint8 (H, W, 4)."""
    factor = side / max(picture.size)
    width, height = (max(round(extent * factor), 4) for extent in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    if mirrors and random.randint(2):
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.array(picture.rotate(random.uniform(-TILT, TILT), Image.Resampling.BILINEAR, expand=True))
    levels = np.minimum(np.arange(256) * random.uniform(0.75, 1.25), 255).astype(np.uint8)
    pixels[..., :3] = levels[pixels[..., :3]]
    return pixels


def shared_out(count: int, seed: int) -> dict[str, np.ndarray]:
    """Give each part its share of what must not be in two: indices, int64."""
    order = np.random.RandomState(seed).permutation(count)
    return dict(zip(PARTS, np.split(order, [round(share * count) for share in SHARES]), strict=True))


def _garments(config: DataConfig) -> tuple[dict[str, Objects], str]:
    """Fashion-MNIST: its official test part for test, five in six of the others for train, the rest for val."""
    images = published.load(replace(config, name="fashion_mnist", image_size=None))
    pixels, labels = images.images[:, 0].numpy(), images.labels.numpy()
    own = len(labels) - images.official_test
    order = np.random.RandomState(config.split_seed).permutation(own)
    drawn = (*np.split(order, [own * 5 // 6]), np.arange(own, len(labels)))
    parts = {part: Objects(pixels[index], labels[index]) for part, index in zip(PARTS, drawn, strict=True)}
    return parts, f"garments of Fashion-MNIST ({images.source})"


def _cut_garment(pixels: np.ndarray, random: np.random.RandomState) -> Image.Image:
    """Where it is not black, and where that encloses something."""
    large = np.asarray(Image.fromarray(pixels).resize((56, 56), Image.Resampling.BICUBIC))
    return _cropped([large] * 3, binary_fill_holes(large > 12))


def _digits(config: DataConfig) -> tuple[dict[str, Objects], str]:
    images = digits.load(config)
    pixels, labels = images.images[:, 0].numpy(), images.labels.numpy()
    drawn = shared_out(len(labels), config.split_seed)
    return {part: Objects(pixels[index], labels[index]) for part, index in drawn.items()}, f"digits of {images.source}"


def _cut_digit(pixels: np.ndarray, random: np.random.RandomState) -> Image.Image:
    """Where it is inked, in one of six bright colours."""
    mask = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)) > 127
    colour = random.permutation([0, 255, 255 * random.randint(2)])
    return _cropped([np.full((32, 32), level, dtype=np.uint8) for level in colour], mask)


def _stamps(config: DataConfig) -> tuple[dict[str, Objects], str]:
    """Each part has its share of each class, and each class as often as any: stamps of small classes are there more than once."""
    all_of_them = stamps.load(config)
    members = [np.flatnonzero(all_of_them.labels == label) for label in range(len(stamps.CLASSES))]
    drawn = [shared_out(len(each), config.split_seed) for each in members]
    parts = {}
    for part in PARTS:
        own = [each[shares[part]] for each, shares in zip(members, drawn, strict=True)]
        index = np.concatenate([np.resize(each, max(map(len, own))) for each in own])
        parts[part] = Objects(all_of_them.images[index], all_of_them.labels[index])
    return parts, all_of_them.source


def _cropped(channels: Sequence[np.ndarray], mask: np.ndarray) -> Image.Image:
    """Three of uint8 (H, W) and a mask, bool (H, W), as RGBA, no wider than the mask."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    whole = np.stack([*channels, mask.astype(np.uint8) * 255], axis=2)
    return Image.fromarray(whole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _two_photographs(config: DataConfig, scratch: Path) -> tuple[dict[str, list[Image.Image]], str]:
    """scikit-learn's, each cut in regions: train has the left half, val the upper and test the lower half of the right."""
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(f"data={config.name} needs photographs of scikit-learn: pip install scikit-learn")
    parts: dict[str, list[Image.Image]] = {part: [] for part in PARTS}
    for name in ("china.jpg", "flower.jpg"):
        whole = open_picture(Path(package.submodule_search_locations[0]) / "datasets" / "images" / name, "RGB")
        across, down = whole.width // 2, whole.height // 2
        regions = (
            (0, 0, across, whole.height),
            (across, 0, whole.width, down),
            (across, down, whole.width, whole.height),
        )
        for part, region in zip(PARTS, regions, strict=True):
            parts[part].append(whole.crop(region))
    return parts, f"regions of the two photographs of scikit-learn {version('scikit-learn')}"


def _packaged_photographs(config: DataConfig, scratch: Path) -> tuple[dict[str, list[Image.Image]], str]:
    """Photographs of two Debian packages, each in one part; a package that lies in `data.root`/backgrounds is taken from there."""
    place, photographs = Path(config.root).expanduser() / "backgrounds", []
    wants, instead = "data.backgrounds=packages", "data.backgrounds=sklearn"
    for package, names in PHOTOGRAPHS.items():
        inside = published.unpacked(package, place, scratch, config, wants, instead)
        for name in names:
            whole = open_picture(inside / "usr/share" / name, "RGB")
            factor = PHOTO_SIDE / min(whole.size)
            photographs.append(
                whole.resize([round(extent * factor) for extent in whole.size], Image.Resampling.BILINEAR)
            )
    where = f"photographs of the Debian packages {' and '.join(PHOTOGRAPHS)}"
    drawn = shared_out(len(photographs), config.split_seed)
    return {part: [photographs[at] for at in index] for part, index in drawn.items()}, where


KINDS = {
    "garment_scenes": Kind(published.FASHION_MNIST.classes, _garments, _cut_garment, (0.11, 0.63), mirrors=True),
    "stamp_scenes": Kind(tuple(stamps.CLASSES), _stamps, stamps.cut, (0.11, 0.63), mirrors=True),
    "digit_scenes": Kind(tuple(map(str, range(10))), _digits, _cut_digit, (0.25, 0.6), mirrors=False),
}
_NATURE = "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower"
_WALLPAPERS = "BytheWater ColdRipple DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path summer_1am"
PHOTOGRAPHS = {  # all in these packages that were taken with a camera
    "mate-backgrounds": [f"backgrounds/mate/nature/{name}.jpg" for name in _NATURE.split()],
    "plasma-workspace-wallpapers": [
        *(f"wallpapers/{name}/contents/images/1280x800.jpg" for name in _WALLPAPERS.split()),
        "wallpapers/ColorfulCups/contents/images/2560x1600.jpg",
    ],
}
BACKGROUNDS = {"sklearn": _two_photographs, "packages": _packaged_photographs}
