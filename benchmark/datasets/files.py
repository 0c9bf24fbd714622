"""Formats whose data are files in `root`, and the fingerprint of such files.

`json_files` reads their records, `image_lookup` finds their images, `image_files` decodes these.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlpeft.benchmark.core.errors import DataError, did_you_mean
from vlpeft.benchmark.datasets.base import DataFormat, Features, Pixels
from vlpeft.benchmark.datasets.image_files import decode_image
from vlpeft.benchmark.datasets.sources import open_file, shorten, unreadable_error


@dataclass(frozen=True)
class FileFormat(DataFormat):
    """A format whose data are files in `root`: annotations, and images or feature files."""

    @abstractmethod
    def annotation_files(self) -> Mapping[str, str]:
        """Return role -> annotation file, relative to `root`. The fingerprint is made of these."""

    def image(self, image: str) -> Pixels:
        """Decode one image by its path in `root`. Raises DataError naming the file."""
        return decode_image(Path(self.root) / image)

    def features(self, image: str) -> Features:
        """Read one feature file by its path in `root`. Raises DataError naming the file."""
        if not self.has_features:
            return super().features(image)
        # h5py is imported only for the datasets that need it.
        from vlpeft.benchmark.datasets.hdf5 import read_features

        return read_features(Path(self.root) / image)

    def place_in(self, names: Sequence[str], record: str) -> str:
        """Return the place of a record for an error message: its files, and its name."""
        files = " and ".join(str(Path(self.root) / name) for name in dict.fromkeys(names))
        return f"{files}: {shorten(record)}"

    def fingerprint(self) -> str:
        """Return a hash (12 hex digits) of the bytes of all annotation files; read no image."""
        return content_fingerprint(
            {role: Path(self.root) / name for role, name in self.annotation_files().items()}
        )


def check_request(data: DataFormat, task: str, split: str) -> None:
    """Raise DataError unless `data` serves `task` and has `split`."""
    if task not in data.tasks:
        near = did_you_mean(task, data.tasks)
        raise DataError(f"data format '{data.name}' does not serve the task '{task}'{near}")
    if split not in data.splits():
        near = did_you_mean(split, data.splits())
        raise DataError(f"data format '{data.name}': unknown split '{split}'{near}")


def content_fingerprint(files: Mapping[str, Path]) -> str:
    """Return a hash (12 hex digits) of the bytes of `files` and of their roles.

    The names and the folders of the files do not matter.

    Args:
        files: Role -> file. Two roles may share a file.

    Raises:
        DataError: A file cannot be read.
    """
    digests = {path: _digest(path) for path in dict.fromkeys(files.values())}
    total = hashlib.sha256()
    for role in sorted(files):
        total.update(f"{role}\0{digests[files[role]]}\n".encode())
    return total.hexdigest()[:12]


def _digest(path: Path) -> str:
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable_error(path, error) from error
