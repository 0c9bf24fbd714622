"""Find, name and decode image files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.datasets.base import Pixels

DEPTH = 3  # levels of folders that are searched for images


def require_images(folder: Path, wanted: Iterable[tuple[str, str]]) -> None:
    """Check that a folder holds all wanted image files.

    It lists the folder once: on a network file system, a stat for each of 80,000 images takes
    minutes.

    Args:
        folder: The folder of the images.
        wanted: Pairs (record, file name); the record is for error messages.

    Raises:
        DataError: Images are missing; names the first record, and how many images are missing.
    """
    try:
        with os.scandir(folder) as entries:
            present = {entry.name for entry in entries}
    except OSError as error:
        raise _unlistable_error(folder, error) from error
    missing = [(record, name) for record, name in wanted if name not in present]
    if missing:
        record, name = missing[0]
        count = len({name for _, name in missing})
        raise DataError(
            f"{record}: its image {folder / name} is missing, {count} missing in that folder;"
            " unpack the images there"
        )


def find_images(
    root: Path, folders: Sequence[str], wanted: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Find image files in several folders and return file name -> path relative to `root`.

    Each folder, and each folder in it, is listed once. Of two files with the same name, the first
    one found is used.

    Args:
        root: The dataset's root.
        folders: Folders to search, relative to `root`.
        wanted: Pairs (record, file name); the record is for error messages.

    Raises:
        DataError: Images are missing; names the first record, and how many images are missing.
    """
    places: dict[str, str] = {}
    for folder in folders:
        for name, place in _list_files(root, folder, DEPTH):
            places.setdefault(name, place)
    pairs = list(wanted)
    missing = [(record, name) for record, name in pairs if name not in places]
    if missing:
        record, name = missing[0]
        count = len({name for _, name in missing})
        where = " or ".join(str(root / folder) for folder in folders)
        raise DataError(
            f"{record}: its image {name} is missing in {where}, {count} missing there;"
            " unpack the images there"
        )
    return {name: places[name] for _, name in pairs}


def _list_files(root: Path, folder: str, depth: int) -> Iterator[tuple[str, str]]:
    """Yield name and path of the files in a folder, in sorted order, `depth` levels deep."""
    try:
        with os.scandir(root / folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unlistable_error(root / folder, error) from error
    for entry in found:
        if depth > 1 and entry.is_dir():
            yield from _list_files(root, f"{folder}/{entry.name}", depth - 1)
        else:
            yield entry.name, f"{folder}/{entry.name}"


def _unlistable_error(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot list the image folder {folder}: {error.strerror}; unpack the images there"
    )


def check_pattern(pattern: str, field: str) -> None:
    """Raise ValueError unless `pattern` makes a file name from `field` and from nothing else."""
    try:
        names = {pattern.format(**{field: value}) for value in (1, 2)}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"pattern '{pattern}' must use {field} only, as in '{{{field}}}.jpg'"
        ) from error
    if len(names) < 2:
        raise ValueError(f"pattern '{pattern}' gives every image one name; write {{{field}}} in it")
    if "/" in pattern:
        raise ValueError(f"pattern '{pattern}' must be a file name; put its folder in 'images'")


def image_name(pattern: str, field: str, value: object, where: str) -> str:
    """Return the file name of an image. Raises DataError if its id does not fit the pattern."""
    try:
        return pattern.format(**{field: value})
    except ValueError as error:
        raise DataError(
            f"{where}: {field} {value!r} does not fit the pattern '{pattern}'; fix one of them"
        ) from error


def decode_image(path: Path) -> Pixels:
    """Decode one image file to (height, width, 3) RGB values.

    As in LAVIS and BLIP this is a plain `convert("RGB")`. Grey, palette and CMYK images are
    converted, alpha is dropped without blending, and an EXIF orientation is not applied.

    Raises:
        DataError: The file is missing, damaged, or larger than twice Pillow's `MAX_IMAGE_PIXELS`.
    """
    if path.suffix == ".h5":
        raise DataError(
            f"{path} holds features, not an image; use a backbone that reads them:"
            " clip_bart with `vision: features:2048`"
        )
    try:
        with Image.open(path) as image:
            # convert() drops the transparency anyway, but would warn for palette images.
            image.info.pop("transparency", None)
            return np.array(image.convert("RGB"), dtype=np.uint8)
    except FileNotFoundError as error:
        raise DataError(f"image {path} does not exist; unpack the images again") from error
    except Exception as error:
        # On damaged bytes, Pillow's decoders raise almost any type; its size guard raises bare
        # Exceptions.
        raise DataError(
            f"cannot decode image {path} ({type(error).__name__}: {error}); replace the file"
        ) from error
