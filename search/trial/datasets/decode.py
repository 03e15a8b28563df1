"""One picture file to pixels, or an error that names the file."""

import struct
from pathlib import Path

from PIL import Image


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
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read as a picture ({error}). It may be truncated: replace it or delete it."
        ) from error
    if pixels is None:
        raise ValueError(f"{path} holds more than 8 bits a channel, which would be cut off. Save it with 8 bits.")
    return pixels
