"""Unpack the files that a dataset needs from an archive."""

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
    """The interface that zip and tar files share here."""

    def names(self) -> list[str]:
        """Return the names of all members."""

    def extract(self, name: str, folder: Path) -> None:
        """Write one member into `folder`."""


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
    """Unpack what `source` gives and `root` does not have yet, then remove the archive.

    Members are unpacked into a temporary folder first. Each file or folder is then moved to its
    place in one step, so it is never there in part.

    Raises:
        UserError: The archive is damaged (then it is removed), or it does not hold what it should
            (then it is kept).
    """
    archive, folder = root / source.file, root / f".unpack-{Path(source.file).name}"
    shutil.rmtree(folder, ignore_errors=True)
    missing = []
    for name, place in zip(source.gives, source.places(), strict=True):
        if not (root / place).exists():
            missing.append(name)
    try:
        _extract(archive, missing, folder, watch)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        archive.unlink()
        raise UserError(
            f"{archive} is damaged ({error}) and was removed; run the command again"
        ) from error
    else:
        for name in missing:
            (root / source.into / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(root / source.into / name)
        archive.unlink()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _extract(archive: Path, wanted: list[str], folder: Path, watch: ReportCheck) -> None:
    with _open_archive(archive) as opened:
        members = _select_members(opened.names(), wanted, archive)
        for done, member in enumerate(members, 1):
            opened.extract(member, folder)
            watch(f"unpack {archive.name}", done, len(members))


@contextmanager
def _open_archive(path: Path) -> Iterator[_Archive]:
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            yield _Tar(tar)
    else:
        with zipfile.ZipFile(path) as archive:
            yield _Zip(archive)


def _select_members(names: list[str], wanted: list[str], archive: Path) -> list[str]:
    """Return the members that are one of `wanted`, or inside one of them.

    Raises:
        UserError: The archive does not hold one of `wanted`.
    """
    members: dict[str, None] = {}
    for want in wanted:
        found = [name for name in names if _is_inside(name, want)]
        if not found:
            tops = {PurePosixPath(name).parts[0] for name in names if PurePosixPath(name).parts}
            raise UserError(
                f"{archive} holds no '{want}', only {', '.join(sorted(tops)[:9])};"
                f" unpack it by hand to {archive.parent}"
            )
        members |= dict.fromkeys(found)
    return list(members)


def _is_inside(name: str, folder: str) -> bool:
    path = PurePosixPath(name)
    return path.is_relative_to(folder) and ".." not in path.parts
