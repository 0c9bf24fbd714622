"""Checksums of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vlpeft.benchmark.datasets.sources import Download


def wrong_checksum(source: Download, path: Path) -> str:
    """How a file differs from what is published of it; "" where it does not, or nothing is published."""
    size = path.stat().st_size
    if source.bytes is not None and size != source.bytes:
        return f"it has {size:,} bytes, {source.bytes:,} are published"
    for kind, published in (("sha256", source.sha256), ("md5", source.md5)):
        if published:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, kind).hexdigest()
            if found != published:
                return f"its {kind} is {found}, published is {published}"
    return ""
