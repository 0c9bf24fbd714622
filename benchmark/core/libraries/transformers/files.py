"""The files of a checkpoint, in a folder or on the hub."""

from __future__ import annotations

from pathlib import Path

from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)
from transformers.utils.hub import cached_files, get_checkpoint_shard_files

from vlpeft.benchmark.core.libraries.transformers.calls import call_function, check_call

PICKLED, SAFE = WEIGHTS_NAME, SAFE_WEIGHTS_NAME
CHECKPOINTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
"""Names of weight files, in the order in which transformers looks for them."""


def find_file(
    location: str | Path,
    name: str,
    *,
    revision: str | None = None,
    local_only: bool = False,
    required: bool = True,
) -> str | None:
    """Return the path of a file in a folder or a hub repository.

    Returns None if the file is missing and not required. Raises OSError for a required file that is
    missing, and for an unknown repository.
    """
    options = {
        "revision": revision,
        "local_files_only": local_only,
        "_raise_exceptions_for_missing_entries": required,
    }
    check_call(cached_files, tuple(options))
    found: list[str] | None = cached_files(location, [name], **options)
    if not found:
        return None
    return found[0]


def find_shards(location: str, index: str, *, revision: str | None, local_only: bool) -> None:
    """Find all files that an index of sharded weights names; raise OSError for a missing one."""
    call_function(
        get_checkpoint_shard_files,
        location,
        index,
        revision=revision,
        local_files_only=local_only,
    )
