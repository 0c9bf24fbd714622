"""Read small files that people write, within bounds and with errors that name the fix."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.core.files import NotRegularFile, open_regular

LISTED = 10  # names of files that a message lists


def read_bounded(path: Path, largest: int, endings: tuple[str, ...]) -> bytes:
    """Read a regular file of at most `largest` bytes.

    A pipe or a device would never end, and a file of gigabytes is a mistake.

    Args:
        path: The file.
        largest: The size of the largest file that is read.
        endings: Those of files of its kind. Messages suggest such a file of the same folder.

    Raises:
        UserError: There is no such file, or it cannot be read.
    """
    try:
        with open_regular(path) as file:
            data = file.read(largest + 1)
    except IsADirectoryError as error:
        raise UserError(
            f"cannot read {path}: Is a directory{_suggest_inside(path, endings)}"
        ) from error
    except NotRegularFile as error:
        raise UserError(
            f"cannot read {path}: not a regular file; copy its content to a file"
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"cannot read {path}: {error.strerror}{_suggest(path, endings)}") from error
    except PermissionError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; allow it, as with `chmod u+r {path}`"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the path of a file") from error
    except ValueError as error:  # a NUL in the path
        raise UserError(f"cannot read {str(path)!r}: {error}; give the path of a file") from error
    if len(data) > largest:
        raise UserError(
            f"cannot read {path}: larger than {largest:,} bytes, which no file of this kind is; "
            "give another file"
        )
    return data


def _suggest(path: Path, endings: tuple[str, ...]) -> str:
    """Return what may be meant by a file that does not exist."""
    if path.is_symlink():
        return f"; it is a link to {path.readlink()}, which does not exist"
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent}"
    names = _names(path.parent, endings)
    hint = did_you_mean(path.name, names)
    if hint.startswith("; known"):
        return f"; {path.parent} has {_listed(names)}"
    if not hint:
        return f"; {path.parent} has no file that ends in {endings[0]}"
    return hint


def _suggest_inside(folder: Path, endings: tuple[str, ...]) -> str:
    """Return which files of a folder may be meant."""
    names = _names(folder, endings)
    if not names:
        return f"; give a file that ends in {endings[0]}"
    return f"; give one of its files: {_listed(names)}"


def _names(folder: Path, endings: tuple[str, ...]) -> list[str]:
    """Return the names of the files with one of these endings; none of a folder that is closed."""
    try:
        return sorted(each.name for each in folder.iterdir() if each.name.endswith(endings))
    except PermissionError:
        return []


def _listed(names: Iterable[str]) -> str:
    """Join names, and count those after the first few."""
    known = list(names)
    text = ", ".join(known[:LISTED])
    if len(known) > LISTED:
        return f"{text} and {len(known) - LISTED} more"
    return text
