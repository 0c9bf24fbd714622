"""The sources of a dataset's files: those to download, and those that a person must ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vlpeft.benchmark.core.config import Config, Positive
from vlpeft.benchmark.core.errors import DataError

# The end of an error message. `vlpeft data check` removes it, because its user has just run it.
SOURCES = "; `vlpeft data check` says where to get it"


def unreadable_error(path: Path, error: OSError) -> DataError:
    """Return the error to raise for a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return DataError(
            f"{path} does not exist; put the file there, or set `root`"
            f" (shipped datasets: VLPEFT_DATA) to its folder{SOURCES}"
        )
    return DataError(f"cannot read {path}: {error.strerror}; check the path and its permissions")


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
        return tuple(place for place in self.places() if not (root / place).exists())


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
        return tuple(place for place in self.places if not (root / place).exists())
