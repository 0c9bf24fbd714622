"""Names of image files, and the patterns that make them from the id of an image."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from string import Formatter

from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.datasets.sources import shorten

WIDEST = 255  # characters: no file system has longer file names


def check_pattern(pattern: str, field: str) -> None:
    """Raise ValueError unless `pattern` makes a file name from `field` and from nothing else."""
    try:
        too_wide = any(_is_too_wide(spec) for spec in _specs(pattern))
    except ValueError:
        too_wide = False  # not a pattern at all: refused below
    if too_wide:
        raise ValueError(
            f"pattern '{shorten(pattern)}' has a width of more than {WIDEST} characters;"
            f" write a smaller one, as in '{{{field}:012d}}.jpg'"
        )
    try:
        names = {pattern.format(**{field: value}) for value in (1, 2)}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"pattern '{shorten(pattern)}' must use {field} only, as in '{{{field}}}.jpg'"
        ) from error
    if len(names) < 2:
        raise ValueError(
            f"pattern '{shorten(pattern)}' gives every image one name; write {{{field}}} in it"
        )
    if "/" in pattern:
        raise ValueError(
            f"pattern '{shorten(pattern)}' must be a file name; put its folder in 'images'"
        )


def _specs(pattern: str) -> list[str]:
    """Return what follows the colon in each pair of braces."""
    return [spec for _, _, spec, _ in Formatter().parse(pattern) if spec]


def _is_too_wide(spec: str) -> bool:
    """Return whether a format asks for a long text, or takes its width from a value."""
    if "{" in spec:
        return True
    return any(len(number) > 5 or int(number) > WIDEST for number in re.findall("[0-9]+", spec))


def image_name(pattern: str, field: str, value: object, where: str) -> str:
    """Return the file name of an image, behind the folders that its id contains.

    Raises:
        DataError: The id does not fit the pattern.
    """
    folder = ""
    if isinstance(value, str):
        before, slash, value = value.rpartition("/")
        folder = before + slash
    try:
        return folder + pattern.format(**{field: value})
    except ValueError as error:
        raise DataError(
            f"{where}: {field} {shorten(repr(value))} does not fit the pattern '{pattern}';"
            " fix one of them"
        ) from error


def inner_path(name: str, record: str) -> str:
    """Return the path of an image below its folder, without "./" and double slashes.

    Raises:
        DataError: The path is absolute, or leaves the folder by "..".
    """
    if "/" not in name and name not in ("", ".", ".."):
        return name  # the usual case, 100,000 times
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise DataError(
            f"{record}: its image '{shorten(name)}' is not below the image folder;"
            " write a path that starts there, without '..'"
        )
    return str(path)
