"""Unpack the files that a dataset needs from an archive."""

from __future__ import annotations

import errno
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.datasets.fetch.archives import open_archive
from vlpeft.benchmark.datasets.fetch.check import ReportCheck
from vlpeft.benchmark.datasets.sources import Download, shorten

# What a member's name causes and not the disk.
OF_NAMES = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.EINVAL)
# An intact archive that Python cannot or must not unpack: encrypted, of an unknown compression,
# with a link that leads nowhere or out of the folder.
UNSUPPORTED = (RuntimeError, NotImplementedError, KeyError, tarfile.FilterError)


def unpack(source: Download, root: Path, watch: ReportCheck) -> None:
    """Unpack what `source` gives and `root` does not have yet, then remove the archive.

    Members are unpacked into a temporary folder first. Each file or folder is then moved to its
    place in one step, so it is never there in part.

    Raises:
        UserError: The archive is damaged (then it is removed), or it cannot be unpacked here, or it
            does not hold what it should (then it is kept).
    """
    archive, folder = root / source.file, root / f".unpack-{Path(source.file).name}"
    shutil.rmtree(folder, ignore_errors=True)
    missing = []
    for name, place in zip(source.gives, source.places(), strict=True):
        if not (root / place).exists():
            missing.append(name)
    try:
        _extract(archive, missing, folder, watch)
        for name in missing:
            (root / source.into / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(root / source.into / name)
        archive.unlink()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _extract(archive: Path, wanted: list[str], folder: Path, watch: ReportCheck) -> None:
    """Unpack the wanted members into `folder`. Raises UserError for any bad archive."""
    try:
        with open_archive(archive) as opened:
            sizes = opened.sizes()
            members = _select_members(sizes, wanted, archive)
            _require_space(sum(sizes[member] for member in members), archive)
            for done, member in enumerate(members, 1):
                opened.extract(member, folder)
                watch(f"unpack {archive.name}", done, len(members))
    except UserError:
        raise
    except Exception as error:
        # On damaged bytes, zipfile, tarfile and the decompressors raise almost any type.
        raise _archive_error(archive, error) from error


def _archive_error(archive: Path, error: Exception) -> Exception:
    """Return the error to raise for an archive, and remove it if another copy could be better.

    An error of the disk is returned as it is.
    """
    reason = shorten(" ".join(str(error).split()) or type(error).__name__)
    number = getattr(error, "errno", None)
    if number is not None and number not in OF_NAMES:
        return error
    # RecursionError is a RuntimeError, but of damaged bytes.
    unsupported = isinstance(error, UNSUPPORTED) and not isinstance(error, RecursionError)
    if number is not None or unsupported:
        return UserError(
            f"{archive} cannot be unpacked here ({reason}); unpack it by hand to {archive.parent}"
        )
    archive.unlink()
    return UserError(f"{archive} is damaged ({reason}) and was removed; run the command again")


def _require_space(size: int, archive: Path) -> None:
    """Raise UserError if the members do not fit on the disk."""
    free = shutil.disk_usage(archive.parent).free
    if size > free:
        raise UserError(
            f"{archive} unpacks to {size:,} bytes, and {free:,} are free there;"
            " free some space, or choose another --path"
        )


def _select_members(names: Mapping[str, int], wanted: list[str], archive: Path) -> list[str]:
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
                f"{archive} holds no '{want}', only {', '.join(map(shorten, sorted(tops)[:9]))};"
                f" unpack it by hand to {archive.parent}"
            )
        members |= dict.fromkeys(found)
    return list(members)


def _is_inside(name: str, folder: str) -> bool:
    path = PurePosixPath(name)
    return path.is_relative_to(folder) and ".." not in path.parts
