"""Image files of people and data sets: opened in the formats that are named here, whole, and of a size that fits in memory."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
"""Pillow knows many more, by a file's first bytes and not by its name: an EPS would be handed to Ghostscript."""
MOST = 2**26
"""Pixels of one image: a small file may say that it has a thousand times as many."""


@contextmanager
def opened(source: Path | bytes) -> Iterator[Image.Image]:
    """An image, not yet decoded. Raises ValueError or what Pillow raises for one that is damaged, of another format, too large,
    or longer than its header says."""
    length = len(source) if isinstance(source, bytes) else os.stat(source).st_size
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
        if image.width * image.height > MOST:
            raise ValueError(f"it has {image.width}x{image.height} pixels, more than {MOST}")
        end = _end(image)
        if end is not None and length > end:
            raise ValueError(
                f"it is {length} bytes long, and its header says {end}; perhaps a program took it for a text and rewrote its "
                "line ends"
            )
        yield image


def _end(image: Any) -> int | None:
    """Where a file ends by its own header; None where the header does not say. Bytes that were put in between would shift the
    pixels behind them, and no reader would mind. JPEG and PNG have marks of their own against that."""
    if image.format == "PPM" and image.tile and image.tile[0][0] in ("raw", "ppm"):
        kind, _, offset, args = image.tile[0]
        if kind == "ppm":  # of another maximum than 255
            row = image.width * len(image.getbands()) * (1 if int(args[-1]) < 256 else 2)
        else:
            mode = args if isinstance(args, str) else str(args[0])
            row = (image.width + 7) // 8 if mode.startswith("1") else image.width * len(image.getbands())
            row *= 2 if "16" in mode else 1
        return int(offset) + row * image.height
    head = _head(image)
    if image.format == "BMP" and (said := int.from_bytes(head[2:6], "little")):
        return said
    if image.format == "WEBP":
        said = int.from_bytes(head[4:8], "little")
        return 8 + said + said % 2
    return None


def _head(image: Any) -> bytes:
    at = image.fp.tell()
    image.fp.seek(0)
    head = image.fp.read(8)
    image.fp.seek(at)
    return bytes(head)
