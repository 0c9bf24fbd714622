"""Checksums of downloaded files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vlpeft.benchmark.datasets.sources import Download


def wrong_checksum(source: Download, path: Path) -> str:
    """Return how a file differs from its published size and checksums, or "" if it does not.

    Sizes and checksums that are not published are not compared.
    """
    size = path.stat().st_size
    if source.bytes is not None and size != source.bytes:
        return f"it has {size:,} bytes, {source.bytes:,} are published"
    for kind, published in (("sha256", source.sha256), ("md5", source.md5)):
        if not published:
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
        if found != published:
            return f"its {kind} is {found}, published is {published}"
    return ""
