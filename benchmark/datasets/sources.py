"""The sources of a dataset's files: those to download, and those that a person must ask for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath

from vlpeft.benchmark.core.config import Config, Positive
from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.core.files import NotRegularFile, open_regular

# The end of an error message. `vlpeft data check` removes it, because its user has just run it.
SOURCES = "; `vlpeft data check` says where to get it"
SHOWN = 200  # characters of a name in an error message; a name in damaged data has any length


def open_file(path: Path) -> BufferedReader:
    """Open a file of a dataset to read its bytes.

    A named pipe is refused and not waited for.

    Raises:
        DataError: There is no such file, it cannot be read, or it is not a file.
    """
    name = shorten(path)
    try:
        return open_regular(path)
    except IsADirectoryError as error:
        raise DataError(f"cannot read {name}: it is a folder; put a file there") from error
    except NotRegularFile as error:
        raise DataError(
            f"cannot read {name}: it is a device, pipe or socket; put a file there"
        ) from error
    except (OSError, ValueError) as error:
        raise unreadable_error(path, error) from error


def unreadable_error(path: Path, error: OSError | ValueError) -> DataError:
    """Return the error to raise for a file that cannot be opened."""
    name = shorten(path)
    if isinstance(error, FileNotFoundError):
        return DataError(
            f"{name} does not exist; put the file there, or set `root`"
            f" (shipped datasets: VLPEFT_DATA) to its folder{SOURCES}"
        )
    reason = str(error)  # a ValueError: a path with a NUL or half of a character
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
    return DataError(f"cannot read {name}: {reason}; check the path and its permissions")


def shorten(name: object) -> str:
    """Return a name for an error message, without the middle of a very long one."""
    text = str(name)
    if len(text) <= 2 * SHOWN:
        return text
    return f"{text[:SHOWN]}...{text[-SHOWN:]} ({len(text):,} characters)"


@dataclass(frozen=True)
class Download(Config):
    """A file on the web that is saved as `file` in the dataset's root.

    If `gives` is not empty, the file is an archive (zip or tar). These files and folders of it are
    unpacked into the folder `into`, and the archive is removed. Checksums and size are the
    published ones; they are empty if none are published.
    """

    file: str
    url: str
    sha256: str = ""
    md5: str = ""
    bytes: Positive | None = None
    gives: tuple[str, ...] = ()
    into: str = ""

    def __post_init__(self) -> None:
        """Refuse paths outside the root, and addresses that are not http or https."""
        for name in (self.file, self.into, *self.gives):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"'{name}' must be inside the dataset's root")
        if not self.url.startswith(("https://", "http://")):
            raise ValueError(f"url '{self.url}' must begin with https:// or http://")

    def places(self) -> tuple[str, ...]:
        """Return the paths in the root that exist after the download."""
        if not self.gives:
            return (self.file,)
        return tuple(str(PurePosixPath(self.into, name)) for name in self.gives)

    def missing(self, root: Path) -> tuple[str, ...]:
        """Return which of `places` do not exist yet."""
        return _missing(self.places(), root)


@dataclass(frozen=True)
class ByHand(Config):
    """Files that no program can fetch.

    `what` they are, how to `get` them, and the `places` in the root to put them.
    """

    what: str
    get: str
    places: tuple[str, ...]

    def missing(self, root: Path) -> tuple[str, ...]:
        """Return which of `places` do not exist yet."""
        return _missing(self.places, root)


def _missing(places: tuple[str, ...], root: Path) -> tuple[str, ...]:
    """Return which paths below `root` do not exist."""
    # A path that is too long is an error for Path.exists.
    exists = os.path.exists
    return tuple(place for place in places if not exists(root / place))
