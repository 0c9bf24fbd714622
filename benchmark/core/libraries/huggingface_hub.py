"""huggingface_hub: the files in its cache, and the layout of its folders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from logging import ERROR
from typing import Literal

from huggingface_hub import (
    constants,
    get_session,
    hf_hub_download,
    is_offline_mode,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from huggingface_hub.utils import logging

LIBRARY = "huggingface_hub"
TRIED = ("2.4.0",)

REACH_SECONDS = 5.0

_SNAPSHOT = re.compile(r"/models--(.+)/snapshots/([0-9a-f]{40})/?$")


def cache_folder() -> str:
    """Return the folder of the hub's cache."""
    folder: str = constants.HF_HUB_CACHE
    return folder


def cached_path(repository: str, file: str, revision: str | None) -> str | Literal[False] | None:
    """Return the path of a cached file.

    Returns False if the repository is known to lack the file, and None if nothing is known. A name
    that no repository can have, such as a path, is never in the cache: None.
    """
    try:
        found = try_to_load_from_cache(repository, file, revision=revision)
    except HFValidationError:
        return None
    if found is None or isinstance(found, str):
        return found
    return False  # the library returns an object of its own for a file known to be missing


@cache
def is_reachable() -> bool:
    """Return whether the hub answers. A process asks once, and waits for REACH_SECONDS."""
    if is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=REACH_SECONDS)
    except Exception:  # the classes are those of its HTTP library, which has changed before
        return False
    return True


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Keep the hub's library from asking a hub that does not answer.

    It would ask for every file, wait, and ask again: a minute until the error.
    """
    if is_offline_mode() or is_reachable():
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def snapshot_source(folder: str) -> tuple[str, str] | None:
    """Return id and commit of a snapshot's folder in the hub's cache; None for any other folder."""
    found = _SNAPSHOT.search(folder)
    if found is None:
        return None
    return found[1].replace("--", "/", 1), found[2]


def first_file(
    repository: str, files: Sequence[str], revision: str | None, *, local_only: bool
) -> str:
    """Return the path of the first of these files that a repository has.

    Raises EntryNotFoundError (an OSError or ValueError) if it has none of them.
    """
    for file in files:
        try:
            path: str = hf_hub_download(
                repository,
                file,
                revision=revision,
                local_files_only=local_only,
                force_download=False,
            )
        except EntryNotFoundError as error:
            last = error
        else:
            return path
    raise last


@contextmanager
def quiet() -> Iterator[None]:
    """Log errors only."""
    before = logging.get_verbosity()
    if before == ERROR:  # to set a level empties a cache of Python's logging, which takes 1 ms
        yield
        return
    logging.set_verbosity(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
