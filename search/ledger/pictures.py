"""Objects in pictures: drawn into them for who looks at files, and as overlays in W&B's own terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from search.ledger.tracker import Marked, Picture

# Okabe and Ito 2008, told apart by who sees few colours
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
LEAST_SIDE = 256  # pixels that a picture is enlarged to, so that names can be read
GAP = 8


def drawn(picture: Picture) -> np.ndarray:
    """The picture with what is true in it, beside it with what a network sees; uint8 (height, width, 3).

    A picture without objects is returned as it is.
    """
    if not picture.objects:
        return picture.pixels
    scale = max(1, -(-LEAST_SIDE // max(picture.pixels.shape[:2])))
    panels = [_panel(picture, marked, scale, name) for name, marked in picture.objects.items()]
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    return np.hstack([part for panel in panels for part in (panel, gap)][:-1])


def sheet(pictures: Sequence[Picture], columns: int = 2) -> Image.Image:
    """All pictures, `drawn`, on one sheet."""
    tiles = [drawn(each) for each in pictures]
    height, width = (max(tile.shape[side] for tile in tiles) + GAP for side in (0, 1))
    rows = -(-len(tiles) // columns)
    page = Image.new("RGB", (columns * width - GAP, rows * height - GAP), "white")
    for number, tile in enumerate(tiles):
        page.paste(Image.fromarray(tile), (number % columns * width, number // columns * height))
    return page


def _panel(picture: Picture, objects: Sequence[Marked], scale: int, title: str) -> np.ndarray:
    pixels = picture.pixels.repeat(scale, 0).repeat(scale, 1).astype(np.float32)
    for each in objects:
        if each.mask is not None:
            inside = each.mask.repeat(scale, 0).repeat(scale, 1)
            pixels[inside] = 0.55 * pixels[inside] + 0.45 * np.array(_rgb(each.label))
    image = Image.fromarray(pixels.astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for each in objects:
        x1, y1, x2, y2 = (scale * edge for edge in each.box)
        pen.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=COLOURS[each.label % len(COLOURS)], width=2)
        score = "" if each.score is None else f" {each.score:.2f}"
        _write(pen, (x1 + 2, max(y1 - 12, 0)), f"{picture.classes.get(each.label, each.label)}{score}")
    _write(pen, (2, image.height - 13), title)
    return np.asarray(image)


def _write(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str) -> None:
    pen.rectangle(pen.textbbox(place, text), fill="white")
    pen.text(place, text, fill="black")


def _rgb(label: int) -> tuple[int, int, int]:
    value = int(COLOURS[label % len(COLOURS)][1:], 16)
    return value >> 16, value >> 8 & 255, value & 255


def overlays(picture: Picture) -> dict[str, Any]:
    """What W&B's `Image` takes beside the pixels: boxes and masks that its pages switch on and off by class."""
    if not picture.objects:
        return {}
    names = dict(picture.classes)
    boxes = {
        group: {"box_data": [_box(each, names) for each in objects], "class_labels": names}
        for group, objects in picture.objects.items()
    }
    found: dict[str, Any] = {"boxes": boxes}
    if any(each.mask is not None for objects in picture.objects.values() for each in objects):
        found["masks"] = {
            group: {"mask_data": _labels(picture, objects), "class_labels": {0: "background", **names}}
            for group, objects in picture.objects.items()
        }
    return found


def _box(marked: Marked, names: dict[int, str]) -> dict[str, Any]:
    corners = dict(zip(("minX", "minY", "maxX", "maxY"), marked.box, strict=True))
    score = {} if marked.score is None else {"scores": {"score": marked.score}}
    caption = names.get(marked.label, str(marked.label)) + ("" if marked.score is None else f" {marked.score:.2f}")
    return {"position": corners, "domain": "pixel", "class_id": marked.label, "box_caption": caption, **score}


def _labels(picture: Picture, objects: Sequence[Marked]) -> np.ndarray:
    """The class of each pixel, 0 where there is none; of masks that overlap, the last."""
    found = np.zeros(picture.pixels.shape[:2], np.uint8)
    for each in objects:
        if each.mask is not None:
            found[each.mask] = each.label
    return found
