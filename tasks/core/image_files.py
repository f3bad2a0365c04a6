"""Reading of image files for models: upright, with 8 bits per channel."""

import functools
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blockzoo.tasks.core.labelled_files import UnreadableFileError

__all__ = ["IMAGE_SUFFIXES", "load_image", "to_channels"]

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of files that are taken from folders."""

_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO"),
    *("PCX", "PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP"),
)
"""Formats that are read, whatever a file is called; Pillow runs a program for EPS and unpacks FITS without a bound."""

_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 0x0112, 258, 262
"""Tags of EXIF and TIFF."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation, how the stored rows and columns become upright."""

_DECODING = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error),
    RuntimeError,  # of AVIF
)
"""What Pillow's decoders raise on damaged files."""


def load_image(path: str | Path, channels: int = 3, content: bytes | None = None) -> Image.Image:
    """Read an image file as RGB or grey, turned upright by its EXIF orientation.

    Grey images of 16 bits are scaled to 8 bits, and floating-point ones from [0, 1]. Transparency is ignored: pixels
    get their stored colour, as in torchvision and timm.

    Args:
        path: The file; where `content` is given, what messages call the image.
        channels: 3 for RGB, 1 for grey.
        content: The encoded image, where it is in memory.

    Raises:
        UnreadableFileError: It cannot be read, is in a format that is not read here, is too large
            (`PIL.Image.MAX_IMAGE_PIXELS`), or its value for white is unknown; the message names the file.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=_formats()) as image:
            image.load()
            orientation = _orientation(image)
            converted = to_channels(image, channels)
            return converted.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else converted
    except Image.DecompressionBombError as error:
        raise UnreadableFileError(
            f"{path} is too large: {error}; shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        ) from error
    except _DECODING as error:
        raise UnreadableFileError(f"{path} is not a readable image: {error}") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that this version of Pillow has."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image; 1 if it has none."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _DECODING:
        return 1  # a damaged EXIF block says nothing about the pixels, which other programs show as stored


def to_channels(image: Image.Image, channels: int = 3) -> Image.Image:
    """Convert an image of any Pillow mode to RGB (3 channels) or grey (1), with 8 bits per channel.

    Raises:
        ValueError: Another number of channels, or an unknown value for white.
    """
    if channels not in (1, 3):
        raise ValueError(f"images have 3 channels, or 1 as grey; the model takes in_chans={channels}")
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_bytes(image))
    return image.convert("RGB" if channels == 3 else "L")


def _bytes(image: Image.Image) -> np.ndarray:
    """Values (rows, columns) of a grey image of more than 8 bits, scaled to bytes."""
    values: np.ndarray = np.asarray(image)
    if image.mode == "F":
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise ValueError(
                f"floating point values from {values.min():g} to {values.max():g}; white must be 1 and black 0"
            )
        return (values * 255).round().astype(np.uint8)
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, 16)
    bits = int(bits[0] if isinstance(bits, tuple) else bits)
    white = 4095 if bits == 12 else 65535
    if bits > 16 or values.min() < 0 or values.max() > white:
        raise ValueError(
            f"whole numbers of 32 bits from {values.min()} to {values.max()} have no known white; "
            "save the image with 8 or 16 bits a channel"
        )
    scaled = (values.astype(np.float64) * 255 / white).round().astype(np.uint8)
    return 255 - scaled if tags.get(_PHOTOMETRIC) == 0 else scaled
