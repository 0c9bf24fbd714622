"""Take what a dataset needs out of an archive."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.datasets.fetch.check import ReportCheck
from vlpeft.benchmark.datasets.sources import Download


class _Archive(Protocol):
    """What zip and tar files have in common here."""

    def names(self) -> list[str]:
        """All members' names."""

    def extract(self, name: str, folder: Path) -> None:
        """Write one member below `folder`."""


class _Zip:
    def __init__(self, file: zipfile.ZipFile) -> None:
        self.file = file

    def names(self) -> list[str]:
        return self.file.namelist()

    def extract(self, name: str, folder: Path) -> None:
        self.file.extract(name, folder)


class _Tar:
    def __init__(self, file: tarfile.TarFile) -> None:
        self.file = file

    def names(self) -> list[str]:
        return self.file.getnames()

    def extract(self, name: str, folder: Path) -> None:
        self.file.extract(name, folder, filter="data")


def unpack(source: Download, root: Path, watch: ReportCheck) -> None:
    """Put what `source` gives and `root` lacks in its place, each file or folder at once, then remove the archive.

    Raises UserError where the archive is damaged (it is removed) or does not hold what it should (it is kept).
    """
    archive, folder = root / source.file, root / f".unpack-{Path(source.file).name}"
    shutil.rmtree(folder, ignore_errors=True)
    lacking = [
        name
        for name, place in zip(source.gives, source.places(), strict=True)
        if not (root / place).exists()
    ]
    try:
        with _opened(archive) as opened:
            members = _members(opened.names(), lacking, archive)
            for done, member in enumerate(members, 1):
                opened.extract(member, folder)
                watch(f"unpack {archive.name}", done, len(members))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        archive.unlink()
        raise UserError(
            f"{archive} is damaged ({error}) and was removed; run the command again"
        ) from error
    else:
        for name in lacking:
            (root / source.into / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(root / source.into / name)
        archive.unlink()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _opened(path: Path) -> Iterator[_Archive]:
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            yield _Tar(tar)
    else:
        with zipfile.ZipFile(path) as archive:
            yield _Zip(archive)


def _members(names: list[str], wanted: list[str], archive: Path) -> list[str]:
    """Members that are one of `wanted` or lie in it. Raises UserError where one of `wanted` is not in the archive."""
    members: dict[str, None] = {}
    for want in wanted:
        found = [
            name
            for name in names
            if PurePosixPath(name).is_relative_to(want) and ".." not in PurePosixPath(name).parts
        ]
        if not found:
            tops = sorted(
                {PurePosixPath(name).parts[0] for name in names if PurePosixPath(name).parts}
            )
            raise UserError(
                f"{archive} holds no '{want}', only {', '.join(tops[:9])}; unpack it by hand to {archive.parent}"
            )
        members |= dict.fromkeys(found)
    return list(members)
