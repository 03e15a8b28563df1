"""COCO's JSON format: whole files of boxes and masks, looked over before anything is trained on them; and `data=coco`."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor

from search.data.annotated import AnnotatedSet, Annotation, Scene, Scenes
from search.data.cache import open_picture
from search.data.config import DataConfig
from search.data.splits import PARTS, count_of
from search.ledger.files import digest

try:
    from pycocotools import mask as rle
except ImportError as error:
    raise ValueError(
        "Pictures with boxes and masks need the package pycocotools: pip install 'xvol[detection]'"
    ) from error

SLACK = 1.0  # pixels that a box may reach out of its picture: COCO's own do, by rounding


@dataclass(frozen=True)
class Annotated:
    """One annotation file and its pictures.

    Attributes:
        scenes: in the order of the file. files: the picture of each.
        categories: names by id, ascending.
        digest: over the file, and names and sizes of the pictures.
    """

    scenes: Sequence[Scene]
    files: Sequence[Path]
    categories: Mapping[int, str]
    digest: str

    def take(self, index: Sequence[int]) -> Scenes:
        """Some of its pictures, decoded when they are asked for."""
        scenes, files = [self.scenes[at] for at in index], [self.files[at] for at in index]
        return Scenes(scenes, functools.partial(_open, files, scenes))


def load(config: DataConfig) -> AnnotatedSet:
    """The parts that `data.train`, `data.val` and `data.test` name; those that are not named are drawn out of the training pictures.

    Raises:
        ValueError: a file is not there, not whole or not of this format, pictures are absent, or two parts share one.
    """
    root, found = Path(config.path or "").expanduser(), {}  # DataConfig.check has seen to it
    for part in PARTS:
        if name := getattr(config, part):
            pictures = root / (getattr(config, f"{part}_images") or "")
            found[part] = read(root / name, pictures, refuse_empty=config.empty_boxes == "refuse")
    parts = split(found, config)
    pixels_by = {"pillow": PIL.__version__}  # another release, other pixels
    content = digest([pixels_by, {part: each.digest for part, each in found.items()}])
    return annotated_set(found, parts, f"{config.train} in {root}", content)


def annotated_set(
    found: Mapping[str, Annotated], parts: Mapping[str, Scenes], source: str, content: str
) -> AnnotatedSet:
    """The parts as one set; ValueError where two files share a picture, or say other things of a category."""
    categories, owners = found["train"].categories, dict[Path, str]()
    for part, each in found.items():
        strange = {number: name for number, name in each.categories.items() if categories.get(number) != name}
        if strange:
            raise ValueError(f"{source}: the file of {part} has categories that train has not: {strange}")
        for file in each.files:
            if owners.setdefault(file, part) != part:
                raise ValueError(
                    f"{source}: {file} is in {owners[file]} and in {part}; parts must not share a picture."
                )
    objects = (a for each in found.values() for scene in each.scenes for a in scene.annotations if not a["iscrowd"])
    has_masks = all(a.get("segmentation") for a in objects)
    return AnnotatedSet(parts["train"], parts["val"], parts["test"], categories, source, content, has_masks)


def split(found: Mapping[str, Annotated], config: DataConfig) -> dict[str, Scenes]:
    """Draw the three parts by picture: each from its file, or, where it has none, from the training pictures that are left.

    As in `split_labels`, test comes first, then validation: neither changes with what is taken behind it.

    Raises:
        ValueError: a part is larger than what is there.
    """
    random = np.random.RandomState(config.split_seed)  # whose stream never changes
    own = len(found["train"].scenes)
    left, parts = np.arange(own), {}
    for part in reversed(PARTS):
        of = found.get(part, found["train"])
        pool = left if of is found["train"] else np.arange(len(of.scenes))
        whole = len(left) if part == "train" else len(pool) if part in found else max(own // 5, 1)
        size = count_of(getattr(config, f"{part}_size"), len(pool) if part in found and part != "train" else own, whole)
        if size > len(pool):
            raise ValueError(
                f"data.{part}_size={size} is too large: {len(pool)} pictures are left for it. Ask for fewer."
            )
        drawn = random.permutation(pool)[:size]
        left = np.setdiff1d(left, drawn) if pool is left else left
        parts[part] = of.take(np.sort(drawn).tolist())
    return parts


def read(file: Path, pictures: Path, *, refuse_empty: bool = True) -> Annotated:
    """Read an annotation file and look it over, and see that all of its pictures are there.

    Args:
        file: COCO JSON with images, annotations and categories; ids may have gaps.
        pictures: the folder that names of pictures are relative to.
        refuse_empty: whether a box of no area is an error.

    Raises:
        ValueError: what is wrong, in which annotation of which file.
    """
    try:
        content = file.read_bytes()
        whole = json.loads(content)
    except OSError as error:
        raise ValueError(f"The annotation file {file} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ValueError(f"{file} is no JSON file ({error}).") from error
    lists = ("images", "annotations", "categories")
    if not isinstance(whole, dict) or not all(isinstance(whole.get(key), list) for key in lists):
        raise ValueError(f"{file} is not in COCO's format: it should hold the lists {', '.join(lists)}.")
    try:
        categories = dict(sorted((int(c["id"]), str(c["name"])) for c in _once(whole["categories"], "category", file)))
        images = [
            (i["id"], int(i["height"]), int(i["width"]), str(i["file_name"]))
            for i in _once(whole["images"], "image", file)
        ]
        objects: dict[Any, list[Annotation]] = {number: [] for number, *_ in images}
        sides = {number: (height, width) for number, height, width, _ in images}
        for one in _once(whole["annotations"], "annotation", file):
            one.setdefault("iscrowd", 0)
            fault = _fault(one, sides.get(one["image_id"]), categories, refuse_empty)
            if fault:
                raise ValueError(f"annotation {one['id']} of {file}: {fault}")
            objects[one["image_id"]].append(one)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is not in COCO's format ({type(error).__name__}: {error}).") from error
    if not images or not categories:
        raise ValueError(f"{file} has no {'categories' if images else 'images'}.")
    files = [pictures / name for *_, name in images]
    sizes = _sizes(files, file)
    seen = digest([hashlib.sha256(content).hexdigest(), list(zip((name for *_, name in images), sizes, strict=True))])
    scenes = [Scene(number, height, width, objects[number]) for number, height, width, _ in images]
    return Annotated(scenes, files, categories, seen)


def _once(entries: list[dict[str, Any]], kind: str, file: Path) -> list[dict[str, Any]]:
    """The entries, each with an id that no other has."""
    seen = set()
    for entry in entries:
        if entry["id"] in seen:
            raise ValueError(f"{kind} {entry['id']} of {file}: the id is there twice.")
        seen.add(entry["id"])
    return entries


def _fault(one: Annotation, sides: tuple[int, int] | None, categories: Mapping[int, str], refuse_empty: bool) -> str:
    """What is wrong with an annotation of a picture of (height, width), or nothing."""
    if sides is None:
        return f"its image_id {one['image_id']} is of no image in the file."
    if one["category_id"] not in categories:
        return f"its category_id {one['category_id']} is of no category in the file."
    box = one["bbox"]
    if len(box) != 4 or not all(math.isfinite(side) for side in (*box, one["area"])) or min(box[2:]) < 0:
        return f"its box {box} is not x, y, width and height in pixels."
    x, y, width, height = box
    if min(x, y) < -SLACK or x + width > sides[1] + SLACK or y + height > sides[0] + SLACK:
        return f"its box {box} reaches out of its picture of {sides[1]} x {sides[0]} pixels (width x height)."
    if refuse_empty and is_empty(one, *sides):
        return (
            f"its box {box} has no area. Mend it, or leave such objects out of training with data.empty_boxes=skip, as COCO's "
            "train2017 needs."
        )
    return _fault_of_mask(one.get("segmentation"), sides)


def _fault_of_mask(mask: Any, sides: tuple[int, int]) -> str:
    """What is wrong with polygons or run lengths, or nothing; there may be none."""
    if isinstance(mask, dict):
        if list(mask.get("size", ())) != list(sides) or not isinstance(mask.get("counts"), str | list):
            return f"its segmentation has not the size {list(sides)} (height, width) of its picture, or no counts."
        if isinstance(mask["counts"], list) and sum(mask["counts"]) != sides[0] * sides[1]:
            return "the run lengths of its segmentation do not add up to its picture."
    elif mask and not all(isinstance(ring, list) and len(ring) >= 6 and len(ring) % 2 == 0 for ring in mask):
        return "its segmentation is no list of polygons of three points or more, each x, y, x, y, and so on."
    return ""


def _sizes(files: Sequence[Path], of: Path) -> list[int]:
    """Bytes of each picture; ValueError where some are absent."""
    sizes, absent = [], []
    for file in files:
        try:
            sizes.append(file.stat().st_size)
        except OSError:
            absent.append(file)
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(files)} pictures of {of} are not there, the first is {absent[0]}. See to data.path and to the "
            "folder of pictures, e.g. data.train_images."
        )
    return sizes


def _open(files: Sequence[Path], scenes: Sequence[Scene], index: int) -> Tensor:
    file, scene = files[index], scenes[index]
    pixels = np.asarray(open_picture(file, "RGB"))
    if pixels.shape[:2] != (scene.height, scene.width):
        raise ValueError(
            f"{file} is {pixels.shape[1]} x {pixels.shape[0]} pixels (width x height), and its annotation file says "
            f"{scene.width} x {scene.height}."
        )
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def clipped(one: Annotation, height: int, width: int) -> tuple[float, float, float, float]:
    """The corners x1, y1, x2, y2 of a box, inside of its picture."""
    x, y, w, h = one["bbox"]
    return max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))


def is_empty(one: Annotation, height: int, width: int) -> bool:
    """Whether nothing of its box lies in its picture."""
    x1, y1, x2, y2 = clipped(one, height, width)
    return x2 <= x1 or y2 <= y1


def mask_of(one: Annotation, height: int, width: int) -> np.ndarray:
    """The mask of an object, uint8 (H, W): of polygons, or of run lengths as numbers or as COCO's compressed text."""
    given = one["segmentation"]
    if isinstance(given, list):
        given = rle.merge(rle.frPyObjects(given, height, width))
    elif isinstance(given["counts"], list):
        given = rle.frPyObjects(given, height, width)
    decoded: np.ndarray = rle.decode(given)
    return decoded


def annotation(number: int, image: int, category: int, mask: np.ndarray) -> dict[str, Any]:
    """An object in COCO's terms; its mask, bool (H, W), as compressed run lengths."""
    runs = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    box, area = rle.toBbox(runs).tolist(), int(rle.area(runs))
    runs["counts"] = runs["counts"].decode()
    facts = {"id": number, "image_id": image, "category_id": category, "iscrowd": 0}
    return {**facts, "bbox": box, "area": area, "segmentation": runs}
