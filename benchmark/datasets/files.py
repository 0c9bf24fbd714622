"""What the data formats share: JSON records, image folders, decoding and content hashes, each with errors one can act on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmark.datasets.base import DataFormat, Pixels
from benchmark.errors import DataError, did_you_mean

Row = dict[str, Any]
ID = (int, str)  # an identifier in a JSON file: the official files use numbers, converted ones often text


def check_request(data: DataFormat, task: str, split: str) -> None:
    """Raise DataError unless `data` serves `task` and has `split`."""
    if task not in data.tasks:
        raise DataError(f"data format '{data.name}' does not serve the task '{task}'{did_you_mean(task, data.tasks)}")
    if split not in data.splits():
        raise DataError(f"data format '{data.name}': unknown split '{split}'{did_you_mean(split, data.splits())}")


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises DataError when it is missing, unreadable or cut short."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:  # both of JSON's and UTF-8's errors are ValueErrors
        raise DataError(f"{path} is not valid JSON ({error}): cut short or damaged; fetch it again") from error


def read_rows(path: Path, key: str, **types: type | tuple[type, ...]) -> list[Row]:
    """Read the records under the top-level `key`, each with at least the fields in `types`. Raises DataError."""
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        found = f"keys {', '.join(sorted(content))}" if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path}: expected an object with a list '{key}', found {found}; is this the right file?")
    rows: list[Row] = content[key]
    if not rows:
        raise DataError(f"{path}: '{key}' is empty; fetch the file again")
    for index, row in enumerate(rows):
        check_row(row, types, f"{path}: {key}[{index}]")
    return rows


def check_row(row: object, types: Mapping[str, type | tuple[type, ...]], where: str) -> None:
    """Raise DataError unless `row` is an object with these fields of these types."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, found {type(row).__name__}; mend the record")
    for field, wanted in types.items():
        allowed = wanted if isinstance(wanted, tuple) else (wanted,)
        if field not in row:
            raise DataError(f"{where}: '{field}' is missing; add it or remove the record")
        if type(row[field]) not in allowed:  # exact: JSON's true is no number
            expected = " or ".join(kind.__name__ for kind in allowed)
            raise DataError(f"{where}: '{field}' must be {expected}, found {type(row[field]).__name__}; mend the record")


def by_id(rows: Iterable[Row], field: str, path: Path) -> dict[str, Row]:
    """Index records by an identifier, in their order. Raises DataError when one occurs twice."""
    out: dict[str, Row] = {}
    for row in rows:
        identifier = str(row[field])
        if identifier in out:
            raise DataError(f"{path}: {field} {identifier} occurs twice; keep one of the two records")
        out[identifier] = row
    return out


def require_images(folder: Path, wanted: Iterable[tuple[str, str]]) -> None:
    """Check that `folder` holds every file of `wanted`, pairs (record, file name).

    The folder is listed once: a stat for each of 80,000 images takes minutes on a network file system. Raises
    DataError naming the first record whose image is missing, and how many images are.
    """
    try:
        with os.scandir(folder) as entries:
            present = {entry.name for entry in entries}
    except OSError as error:
        raise DataError(f"cannot list the image folder {folder}: {error.strerror}; unpack the images there") from error
    missing = [(record, name) for record, name in wanted if name not in present]
    if missing:
        record, name = missing[0]
        count = len({name for _, name in missing})
        raise DataError(f"{record}: its image {folder / name} is missing, {count} missing in that folder; unpack the images there")


def decode_image(path: Path) -> Pixels:
    """Decode one image file to RGB. Raises DataError when it is missing, damaged or over twice Pillow's `MAX_IMAGE_PIXELS`.

    As in LAVIS and BLIP this is a plain `convert("RGB")`: grey, palette and CMYK are converted, alpha is dropped without
    blending, and an EXIF orientation is not applied.
    """
    try:
        with Image.open(path) as image:
            image.info.pop("transparency", None)  # convert() would drop it all the same, but warn for palettes
            return np.array(image.convert("RGB"), dtype=np.uint8)
    except FileNotFoundError as error:
        raise DataError(f"image {path} does not exist; unpack the images again") from error
    except Exception as error:  # Pillow's decoders raise almost any type on damaged bytes, its size guard bare Exceptions
        raise DataError(f"cannot decode image {path} ({type(error).__name__}: {error}); replace the file") from error


def content_fingerprint(files: Mapping[str, Path]) -> str:
    """Hash (12 hex digits) of the bytes of `files` and of what each is (its key), not of where it lies or its name."""
    total = hashlib.sha256()
    for role in sorted(files):
        try:
            with files[role].open("rb") as file:
                total.update(f"{role}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        except OSError as error:
            raise _unreadable(files[role], error) from error
    return total.hexdigest()[:12]


def _unreadable(path: Path, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path} does not exist; put the file there, or set `root` (shipped datasets: VLPEFT_DATA) to its folder")
    return DataError(f"cannot read {path}: {error.strerror}; check the path and its permissions")
