"""Decode image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.datasets.base import Pixels
from vlpeft.benchmark.datasets.image_memory import MEMORY
from vlpeft.benchmark.datasets.sources import open_file, shorten

BAND = 1 << 20  # pixels that are converted at once
BYTES = 8  # a pixel: 4 in Pillow, 3 in the array, and some for a band
WIDE = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of 16-bit grey
WHITE_IS_ZERO = 0  # a value of TIFF's tag PhotometricInterpretation

# Pillow knows more, but hands some to other programs: EPS to Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


def decode_image(path: Path) -> Pixels:
    """Decode one image file to (height, width, 3) RGB values.

    As in LAVIS and BLIP this is a plain `convert("RGB")`. Grey, palette and CMYK images are
    converted, alpha is dropped without blending, and an EXIF orientation is not applied. 16-bit
    images are scaled to 8 bits; Pillow alone would clip grey ones to white.

    Raises:
        DataError: The file is missing, damaged, larger than twice Pillow's `MAX_IMAGE_PIXELS`, or
            has 32-bit or floating-point pixels, whose range the file does not name.
    """
    if path.suffix == ".h5":
        raise DataError(
            f"{path} holds features, not an image; use a backbone that reads them:"
            " clip_bart with `vision: features:2048`"
        )
    try:
        with (
            open_file(path) as file,
            Image.open(file, formats=FORMATS) as image,
            MEMORY.reserve(BYTES * image.width * image.height),
        ):
            return _rgb_pixels(image, path)
    except DataError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise DataError(
                f"image {shorten(path)} does not exist; unpack the images again"
            ) from error
        raise
    except Exception as error:
        # On damaged bytes, Pillow's decoders raise almost any type; its size guard raises bare
        # Exceptions.
        reason = shorten(" ".join(f"{type(error).__name__}: {error}".split()))
        raise DataError(
            f"cannot decode image {shorten(path)} ({reason}); replace the file"
        ) from error


def _rgb_pixels(image: Image.Image, path: Path) -> Pixels:
    """Return the pixels, converted in bands: whole copies of a large image take gigabytes."""
    # convert() drops the transparency anyway, but would warn for palette images.
    image.info.pop("transparency", None)
    image.load()
    bits = _grey_bits(image, path)
    width, height = image.size
    pixels: Pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        if bits > 8:
            grey = np.asarray(band, np.int64) >> (bits - 8)
            pixels[top : top + rows] = grey.astype(np.uint8)[:, :, None]
        else:
            pixels[top : top + rows] = np.asarray(band.convert("RGB"))
    return pixels


def _grey_bits(image: Image.Image, path: Path) -> int:
    """Return how many bits a grey pixel has; 8 for all that Pillow converts itself.

    Raises:
        DataError: The file does not name the range of its values.
    """
    bits = 16
    # Pillow scales the values of such a PGM file to 16 bits.
    is_wide_pgm = image.mode == "I" and image.format == "PPM"
    if image.mode not in WIDE and not is_wide_pgm:
        if image.mode in ("I", "F"):
            kind = {"I": "32-bit or signed", "F": "floating-point"}[image.mode]
            raise DataError(
                f"image {shorten(path)} has {kind} pixels, and the file does not name their range;"
                " convert it to 8 or 16 bits"
            )
        return 8
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = int(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (bits,))[0])
        if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:
            raise DataError(
                f"image {shorten(path)} has {bits}-bit pixels with white as 0;"
                " convert it to 8 bits, or to black as 0"
            )
    return bits
