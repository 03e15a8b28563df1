"""One picture file to pixels, or an error that names the file."""

import struct
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
NAMED = 5


def refuse_unreadable(paths: Sequence[Path]) -> None:
    """Look at the head of each file, which is quick, so that all that are no pictures are told before any is decoded.

    Raises:
        ValueError: If a file is empty or no picture; names the first few.
    """
    broken = []
    for path in paths:
        try:
            with Image.open(path):
                pass
        except UNREADABLE:
            broken.append(str(path))
    if broken:
        more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        raise ValueError(
            f"{len(broken)} of {len(paths)} files cannot be read as pictures: {', '.join(broken[:NAMED])}{more}. Replace or "
            "delete them."
        )


def open_picture(path: Path, mode: str) -> Image.Image:
    """Decode a whole picture file.

    Args:
        path: PNG, JPEG or whatever else Pillow reads.
        mode: "L" (grey) or "RGB", 8 bits a channel.

    Raises:
        ValueError: If the file is truncated, is no picture, or holds more than 8 bits a channel; names the file.
    """
    try:
        with Image.open(path) as picture:
            deep = picture.mode.startswith(("I", "F"))
            pixels = None if deep else picture.convert(mode)
    except UNREADABLE as error:
        raise ValueError(
            f"{path} cannot be read as a picture ({error}). It may be truncated: replace it or delete it."
        ) from error
    if pixels is None:
        raise ValueError(f"{path} holds more than 8 bits a channel, which would be cut off. Save it with 8 bits.")
    return pixels
