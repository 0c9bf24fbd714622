"""Open archives: zip files, and tar files with or without compression."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from vlpeft.benchmark.datasets.sources import open_file

# The first bytes of compressed files, and the function that opens these.
COMPRESSIONS: Mapping[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
BLOCK = tarfile.BLOCKSIZE
CHUNK = 1 << 20  # bytes


class Archive(Protocol):
    """The interface that zip and tar files share here."""

    def sizes(self) -> dict[str, int]:
        """Return the name of each member, and how many bytes it has when it is unpacked."""

    def extract(self, name: str, folder: Path) -> None:
        """Write one member into `folder`."""


class _Zip:
    def __init__(self, file: zipfile.ZipFile) -> None:
        self.file = file

    def sizes(self) -> dict[str, int]:
        return {info.filename: info.file_size for info in self.file.infolist()}

    def extract(self, name: str, folder: Path) -> None:
        self.file.extract(name, folder)


class _Tar:
    def __init__(self, file: tarfile.TarFile, stream: IO[bytes]) -> None:
        self.file, self.stream = file, stream

    def sizes(self) -> dict[str, int]:
        members = self.file.getmembers()
        if members:
            self._check_end(members[-1])
        return {member.name: member.size for member in members}

    def extract(self, name: str, folder: Path) -> None:
        self.file.extract(name, folder, filter="data")

    def _check_end(self, last: tarfile.TarInfo) -> None:
        """Raise ReadError if something else than the end follows the last member.

        tarfile takes a damaged header for the end, and compressed files have their checksum there.
        """
        end = last.offset_data
        if last.isreg() and last.sparse is None:
            end += -(-last.size // BLOCK) * BLOCK
        self.stream.seek(end)
        following = self.stream.read(BLOCK)
        if last.sparse is None and following.strip(b"\0"):
            raise tarfile.ReadError(f"damaged header after {last.name[:80]}")
        while self.stream.read(CHUNK):
            pass


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a zip or tar file. Damaged ones raise exceptions of many types."""
    with open_file(path) as file:
        beginning = file.read(6)
    for magic, opened in COMPRESSIONS.items():
        if beginning.startswith(magic):
            with opened(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
                yield _Tar(tar, stream)
            return
    if tarfile.is_tarfile(path):
        with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            yield _Tar(tar, stream)
    else:
        with zipfile.ZipFile(path) as archive:
            yield _Zip(archive)
