"""Where a dataset's files come from: what can be fetched, and what a person must ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vlpeft.benchmark.core.config import Config, Positive
from vlpeft.benchmark.core.errors import DataError

SOURCES = "; `vlpeft data check` says where to get it"  # but to those who have just asked it


def unreadable_error(path: Path, error: OSError) -> DataError:
    """The error to raise for a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return DataError(
            f"{path} does not exist; put the file there, or set `root` (shipped datasets: VLPEFT_DATA) to its folder{SOURCES}"
        )
    return DataError(f"cannot read {path}: {error.strerror}; check the path and its permissions")


@dataclass(frozen=True)
class Download(Config):
    """A file on the web, saved as `file` below the dataset's root.

    Where `gives` is not empty it is an archive (zip or tar): these files and folders of it are unpacked into the folder
    `into` and it is removed. Checksums and size are the published ones, and left out where none are.
    """

    file: str
    url: str
    sha256: str = ""
    md5: str = ""
    bytes: Positive | None = None
    gives: tuple[str, ...] = ()
    into: str = ""

    def __post_init__(self) -> None:
        for name in (self.file, self.into, *self.gives):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"'{name}' must lie below the dataset's root")
        if not self.url.startswith(("https://", "http://")):
            raise ValueError(f"url '{self.url}' must begin with https:// or http://")

    def places(self) -> tuple[str, ...]:
        """What is there below the root when the download is done."""
        return tuple(str(PurePosixPath(self.into, name)) for name in self.gives) or (self.file,)

    def missing(self, root: Path) -> tuple[str, ...]:
        """Which of `places` are not there."""
        return tuple(place for place in self.places() if not (root / place).exists())


@dataclass(frozen=True)
class ByHand(Config):
    """Files that no program can fetch: `what` they are, how to `get` them, and the `places` below the root to put them."""

    what: str
    get: str
    places: tuple[str, ...]

    def missing(self, root: Path) -> tuple[str, ...]:
        """Which of `places` are not there."""
        return tuple(place for place in self.places if not (root / place).exists())
