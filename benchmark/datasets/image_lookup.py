"""Find the image files that records name: one way for all formats."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from vlpeft.benchmark.core.errors import DataError
from vlpeft.benchmark.datasets.image_names import inner_path
from vlpeft.benchmark.datasets.sources import shorten

DEPTH = 3  # levels of folders that are searched for images
Kind = Literal["file", "folder", "link"]
Pairs = Sequence[tuple[str, str]]  # record, for error messages; name of its image


def find_images(
    root: Path, folders: Sequence[str], wanted: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Find image files and return name -> path relative to `root`.

    A name is a path below one of the folders. A file at exactly this path comes first. Otherwise
    a file of this name in any subfolder is used, then one that differs in its Unicode
    normalisation, or in the case of its ending. Several such files are an error.

    Folders are listed, because on a network file system a stat for each of 80,000 images takes
    minutes. Each is listed once, and subfolders only where exact paths do not suffice.

    Args:
        root: The dataset's root.
        folders: Folders to search, relative to `root`.
        wanted: Pairs (record, name); the record is for error messages.

    Raises:
        DataError: An image is missing, ambiguous or outside of the folders; names the first record,
            and how many images are missing.
    """
    lookup = _Lookup(root, tuple(dict.fromkeys(folders)))
    places: dict[str, str] = {}
    missing: list[tuple[str, str]] = []
    owners: dict[str, str] = {}  # place -> the path that has it
    for record, name in wanted:
        if name in places:
            continue
        path = inner_path(name, record)
        place = lookup.exact(path, record) or lookup.search(path, record)
        if not place:
            missing.append((record, name))
            continue
        places[name] = place
        _refuse_shared(record, path, owners.setdefault(place, path), place)
    if missing:
        raise lookup.missing_error(missing)
    return places


def _refuse_shared(record: str, path: str, other: str, place: str) -> None:
    """Raise DataError if two paths would get one file: at most one of them is its own."""
    if other == path:
        return
    exact = [each for each in (path, other) if _ends_with(place, each)]
    if len(exact) == 2:
        said = f"its image '{shorten(path)}' and the image '{shorten(other)}' are both {place}"
        raise DataError(f"{record}: {said}; write one path for one image")
    if exact:
        (missing,) = {path, other} - set(exact)
        said = f"the image '{shorten(missing)}' is missing, and {place} is '{shorten(exact[0])}'"
    else:
        said = (
            f"neither its image '{shorten(path)}' nor '{shorten(other)}' exists, and"
            f" {place} cannot be both"
        )
    raise DataError(f"{record}: {said}; put the images at the paths that the file names")


class _Lookup:
    """The files below some folders; lists each folder at most once."""

    def __init__(self, root: Path, folders: tuple[str, ...]) -> None:
        if not folders:
            raise DataError(f"{root}: no folder of images is named; add one to `images`")
        self.root, self.folders = root, folders
        self.listed: dict[str, Mapping[str, Kind]] = {}
        self.closed: dict[str, OSError | ValueError] = {}  # what cannot be listed, and why

    def exact(self, path: str, record: str) -> str:
        """Return the place of a path that exists in one of the folders, or ""."""
        parent, _, name = path.rpartition("/")
        found = []
        for folder in self.folders:
            inside = _join(folder, parent)
            if self._list(inside).get(name, "folder") != "folder":
                found.append(_join(folder, path))
        return _only_place(found, path, record)

    def search(self, path: str, record: str) -> str:
        """Return the place of a file of this name in any subfolder, or ""."""
        name = path.rpartition("/")[2]
        same = self._choose(path, self.by_name.get(name, []), record)
        if same:
            return same
        return self._choose(path, self.by_folded_name.get(_fold(name), []), record)

    def _choose(self, path: str, candidates: Sequence[str], record: str) -> str:
        """Return the only candidate, or the only one that ends with the path."""
        parent = path.rpartition("/")[0]
        if not parent:
            return _only_place(candidates, path, record)
        folded = _fold(path)
        whole = [place for place in candidates if _ends_with(_fold(place), folded)]
        if whole:
            return _only_place(whole, path, record)
        # The folder that the record names is there, so the image is missing in it.
        if _fold(parent) in self.folded_parents:
            return ""
        return _only_place(candidates, path, record)

    @cached_property
    def files(self) -> list[str]:
        """The places of all files, DEPTH levels deep."""
        found: dict[str, None] = {}
        for folder in self.folders:
            found |= dict.fromkeys(self._walk(folder, DEPTH))
        return list(found)

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """File name -> places."""
        found: dict[str, list[str]] = {}
        for place in self.files:
            found.setdefault(place.rpartition("/")[2], []).append(place)
        return found

    @cached_property
    def by_folded_name(self) -> dict[str, list[str]]:
        """File name without the differences that `_fold` removes -> places."""
        found: dict[str, list[str]] = {}
        for name, places in self.by_name.items():
            found.setdefault(_fold(name), []).extend(places)
        return found

    @cached_property
    def folded_parents(self) -> set[str]:
        """Every end of the path of a folder that holds images: a/b/c, b/c and c."""
        ends: set[str] = set()
        for parent in {place.rpartition("/")[0] for place in self.files}:
            parts = _fold(parent).split("/")
            ends |= {"/".join(parts[start:]) for start in range(len(parts))}
        return ends

    def _walk(self, folder: str, depth: int) -> Iterator[str]:
        for name, kind in sorted(self._list(folder).items()):
            place = _join(folder, name)
            if kind == "file" or (kind == "link" and not (self.root / place).is_dir()):
                yield place
            elif depth > 1 and not name.startswith("."):
                yield from self._walk(place, depth - 1)

    def _list(self, folder: str) -> Mapping[str, Kind]:
        """Return name -> kind. It is empty for a subfolder that cannot be listed.

        Raises:
            DataError: One of the folders themselves cannot be listed.
        """
        if folder not in self.listed:
            names: dict[str, Kind] = {}
            try:
                with os.scandir(self.root / folder) as entries:
                    names = {entry.name: _kind(entry) for entry in entries}
            except (OSError, ValueError) as error:
                if folder in self.folders:
                    raise self._unlistable_error(folder, error) from error
                self.closed[folder] = error
            self.listed[folder] = names
        return self.listed[folder]

    def missing_error(self, missing: Pairs) -> DataError:
        """Return the error for missing images, with what the first one resembles."""
        record, name = missing[0]
        path = inner_path(name, record)
        inside = _join(self.folders[0], path).rpartition("/")[0]
        if len(self.folders) == 1 and inside in self.closed:
            return self._unlistable_error(inside, self.closed[inside])
        count = len({name for _, name in missing})
        hint = self._hint(path)
        if len(self.folders) == 1:
            whole = shorten(self.root / self.folders[0] / path)
            where = f"its image {whole} is missing, {count} missing there"
        else:
            folders = " or ".join(str(self.root / folder) for folder in self.folders)
            where = f"its image {shorten(path)} is missing in {folders}, {count} missing there"
        return DataError(f"{record}: {where}{hint}; unpack the images there")

    def _hint(self, path: str) -> str:
        """Return what is there in place of a missing image, or ""."""
        for folder in self.folders:
            place = _join(folder, path)
            parent, _, name = place.rpartition("/")
            if self.listed.get(parent, {}).get(name) == "folder":
                return f" ({place} is a folder)"
        if "\\" in path:
            return " (paths of folders are written with /, not with \\)"
        lower = _normalize(path).lower()
        for place in self.files:
            if _ends_with(_normalize(place).lower(), lower):
                return f" ({place} differs in upper and lower case; rename one of them)"
        return ""

    def _unlistable_error(self, folder: str, error: OSError | ValueError) -> DataError:
        reason = str(error)
        if isinstance(error, OSError):
            reason = error.strerror or reason
        return DataError(
            f"cannot list the image folder {shorten(self.root / folder)}: {reason};"
            " unpack the images there"
        )


def _kind(entry: os.DirEntry[str]) -> Kind:
    """Return the kind of an entry without a stat."""
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file"


def _only_place(places: Sequence[str], path: str, record: str) -> str:
    """Return the only place, or "" if there is none. Raises DataError for several."""
    if len(places) > 1:
        raise DataError(
            f"{record}: its image '{shorten(path)}' is ambiguous: {places[0]} and {places[1]}"
            " both fit; write the path of the image, or name one folder only in 'images'"
        )
    return next(iter(places), "")


def _join(folder: str, name: str) -> str:
    if folder and name:
        return f"{folder}/{name}"
    return folder or name


def _normalize(name: str) -> str:
    """Return the composed form (NFC). File systems and archives of macOS use the other one."""
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", name)


def _fold(name: str) -> str:
    """Return the name in composed form, with its ending in lower case."""
    stem, dot, ending = _normalize(name).rpartition(".")
    return f"{stem}{dot}{ending.lower()}"


def _ends_with(place: str, path: str) -> bool:
    """Return whether the last parts of a place are this path."""
    return place == path or place.endswith(f"/{path}")
