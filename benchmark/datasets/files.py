"""What the data formats share: JSON records, image folders, decoding and content hashes, each with errors one can act on."""

from __future__ import annotations

import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlpeft.benchmark.core.errors import DataError, did_you_mean
from vlpeft.benchmark.datasets.base import DataFormat, Features, Pixels
from vlpeft.benchmark.datasets.sources import unreadable_error

DataRow = dict[str, Any]
Types = Mapping[str, type | tuple[type, ...]]
ID = (
    int,
    str,
)  # an identifier in a JSON file: the official files use numbers, converted ones often text
DEPTH = 3  # of folders in which images are looked for


@dataclass(frozen=True)
class FileFormat(DataFormat):
    """A format whose data are files below `root`: annotations, and images or feature files."""

    @abstractmethod
    def annotation_files(self) -> Mapping[str, str]:
        """Role -> annotation file, relative to `root`: what the data's fingerprint is made of."""

    def image(self, image: str) -> Pixels:
        """Decode one image by its path below `root`. Raises DataError naming the file."""
        return decode_image(Path(self.root) / image)

    def features(self, image: str) -> Features:
        """Read one feature file by its path below `root`. Raises DataError naming the file."""
        if not self.has_features:
            return super().features(image)
        from vlpeft.benchmark.datasets.hdf5 import read_features

        return read_features(Path(self.root) / image)

    def fingerprint(self) -> str:
        """Hash (12 hex digits) of the bytes of every annotation file; images are not read."""
        return content_fingerprint(
            {role: Path(self.root) / name for role, name in self.annotation_files().items()}
        )


def check_request(data: DataFormat, task: str, split: str) -> None:
    """Raise DataError unless `data` serves `task` and has `split`."""
    if task not in data.tasks:
        raise DataError(
            f"data format '{data.name}' does not serve the task '{task}'{did_you_mean(task, data.tasks)}"
        )
    if split not in data.splits():
        raise DataError(
            f"data format '{data.name}': unknown split '{split}'{did_you_mean(split, data.splits())}"
        )


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises DataError when it is missing, unreadable or cut short."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable_error(path, error) from error
    return _parsed(content, str(path))


def read_rows(path: Path, key: str, **types: type | tuple[type, ...]) -> list[DataRow]:
    """Read the records under the top-level `key`, each with at least the fields in `types`. Raises DataError."""
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        found = (
            f"keys {', '.join(sorted(content)[:9])}"
            if isinstance(content, dict)
            else type(content).__name__
        )
        raise DataError(
            f"{path}: expected an object with a list '{key}', found {found}; is this the right file?"
        )
    if not content[key]:
        raise DataError(f"{path}: '{key}' is empty; fetch the file again")
    return _checked(content[key], types, f"{path}: {key}")


def read_list(path: Path, **types: type | tuple[type, ...]) -> list[DataRow]:
    """Read a JSON file that is one list of records, each with at least the fields in `types`. Raises DataError."""
    content = read_json(path)
    if not isinstance(content, list) or not content:
        found = "an empty list" if content == [] else type(content).__name__
        raise DataError(
            f"{path}: expected a list of records, found {found}; is this the right file?"
        )
    return _checked(content, types, f"{path}: record")


def read_mapping(path: Path, **types: type | tuple[type, ...]) -> dict[str, DataRow]:
    """Read a JSON file that is one object of records by their ids, each with at least the fields in `types`. Raises DataError."""
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        found = "an empty object" if content == {} else type(content).__name__
        raise DataError(
            f"{path}: expected an object of records by id, found {found}; is this the right file?"
        )
    for identifier, row in content.items():
        check_row(row, types, f"{path}: {identifier}")
    return content


def read_lines(path: Path, **types: type | tuple[type, ...]) -> list[DataRow]:
    """Read a file of one JSON record a line: the fields in `types`, and nothing else. Raises DataError naming the line."""
    rows: list[DataRow] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                row = _parsed(line, f"{path}: line {number}")
                check_row(row, types, f"{path}: line {number}")
                rows.append(
                    {field: row[field] for field in types}
                )  # SNLI-VE's other fields are most of its half gigabyte
    except OSError as error:
        raise unreadable_error(path, error) from error
    if not rows:
        raise DataError(f"{path} is empty; fetch the file again")
    return rows


def _parsed(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # both of JSON's and UTF-8's errors are ValueErrors
        raise DataError(
            f"{where} is not valid JSON ({error}): cut short or damaged; fetch the file again"
        ) from error


def _checked(rows: list[DataRow], types: Types, where: str) -> list[DataRow]:
    for index, row in enumerate(rows):
        check_row(row, types, f"{where}[{index}]")
    return rows


def check_row(row: object, types: Types, where: str) -> None:
    """Raise DataError unless `row` is an object with these fields of these types."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, found {type(row).__name__}; mend the record")
    for field, wanted in types.items():
        allowed = wanted if isinstance(wanted, tuple) else (wanted,)
        if field not in row:
            raise DataError(f"{where}: '{field}' is missing; add it or remove the record")
        if type(row[field]) not in allowed:  # exact: JSON's true is no number
            expected = " or ".join(kind.__name__ for kind in allowed)
            raise DataError(
                f"{where}: '{field}' must be {expected}, found {type(row[field]).__name__}; mend the record"
            )


def index_by_id(rows: Iterable[DataRow], field: str, path: Path) -> dict[str, DataRow]:
    """Index records by an identifier, in their order. Raises DataError when one occurs twice."""
    out: dict[str, DataRow] = {}
    for row in rows:
        identifier = str(row[field])
        if identifier in out:
            raise DataError(
                f"{path}: {field} {identifier} occurs twice; keep one of the two records"
            )
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
        raise DataError(
            f"cannot list the image folder {folder}: {error.strerror}; unpack the images there"
        ) from error
    missing = [(record, name) for record, name in wanted if name not in present]
    if missing:
        record, name = missing[0]
        count = len({name for _, name in missing})
        raise DataError(
            f"{record}: its image {folder / name} is missing, {count} missing in that folder; unpack the images there"
        )


def find_images(
    root: Path, folders: Sequence[str], wanted: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Where below `root` the files of `wanted`, pairs (record, file name), lie: name -> path.

    Each of `folders` and the folders in it are listed once; of two files of one name the first counts. Raises DataError
    naming the first record whose image is missing, and how many images are.
    """
    places: dict[str, str] = {}
    for folder in folders:
        for name, place in _listed(root, folder, DEPTH):
            places.setdefault(name, place)
    pairs = list(wanted)
    missing = [(record, name) for record, name in pairs if name not in places]
    if missing:
        record, name = missing[0]
        count, where = (
            len({name for _, name in missing}),
            " or ".join(str(root / folder) for folder in folders),
        )
        raise DataError(
            f"{record}: its image {name} is missing in {where}, {count} missing there; unpack the images there"
        )
    return {name: places[name] for _, name in pairs}


def _listed(root: Path, folder: str, depth: int) -> Iterator[tuple[str, str]]:
    try:
        with os.scandir(root / folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"cannot list the image folder {root / folder}: {error.strerror}; unpack the images there"
        ) from error
    for entry in found:
        if depth > 1 and entry.is_dir():
            yield from _listed(root, f"{folder}/{entry.name}", depth - 1)
        else:
            yield entry.name, f"{folder}/{entry.name}"


def check_pattern(pattern: str, field: str) -> None:
    """Raise ValueError unless `pattern` makes a file name of `field` and of nothing else."""
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
    """The file name of an image. Raises DataError where its id does not fit the pattern."""
    try:
        return pattern.format(**{field: value})
    except ValueError as error:
        raise DataError(
            f"{where}: {field} {value!r} does not fit the pattern '{pattern}'; mend one of them"
        ) from error


def answer_texts(row: DataRow, where: str) -> tuple[str, ...]:
    """The texts of a list `answers` of objects with an `answer`, as VQA v2 and VizWiz write them. Raises DataError."""
    if not row["answers"]:
        raise DataError(
            f"{where}: has no answers; remove the question and its annotation, or add an answer"
        )
    for answer in row["answers"]:
        check_row(answer, {"answer": str}, f"{where}: answers")
    return tuple(answer["answer"] for answer in row["answers"])


def texts(row: DataRow, field: str, where: str) -> tuple[str, ...]:
    """A list of texts in a field of a record. Raises DataError where it is empty or holds something else."""
    values = row[field]
    if not values or not all(isinstance(value, str) for value in values):
        raise DataError(
            f"{where}: '{field}' must be a list of texts that is not empty, found {str(values)[:60]}; mend the record"
        )
    return tuple(values)


def decode_image(path: Path) -> Pixels:
    """Decode one image file to RGB. Raises DataError when it is missing, damaged or over twice Pillow's `MAX_IMAGE_PIXELS`.

    As in LAVIS and BLIP this is a plain `convert("RGB")`: grey, palette and CMYK are converted, alpha is dropped without
    blending, and an EXIF orientation is not applied.
    """
    if path.suffix == ".h5":
        raise DataError(
            f"{path} holds features, not an image; use a backbone that reads them: clip_bart with `vision: features:2048`"
        )
    try:
        with Image.open(path) as image:
            image.info.pop(
                "transparency", None
            )  # convert() would drop it all the same, but warn for palettes
            return np.array(image.convert("RGB"), dtype=np.uint8)
    except FileNotFoundError as error:
        raise DataError(f"image {path} does not exist; unpack the images again") from error
    except Exception as error:  # Pillow's decoders raise almost any type on damaged bytes, its size guard bare Exceptions
        raise DataError(
            f"cannot decode image {path} ({type(error).__name__}: {error}); replace the file"
        ) from error


def content_fingerprint(files: Mapping[str, Path]) -> str:
    """Hash (12 hex digits) of the bytes of `files` and of what each is (its key), not of where it lies or its name."""
    digests = {
        path: _digest(path) for path in dict.fromkeys(files.values())
    }  # two splits may share a file
    total = hashlib.sha256()
    for role in sorted(files):
        total.update(f"{role}\0{digests[files[role]]}\n".encode())
    return total.hexdigest()[:12]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable_error(path, error) from error
