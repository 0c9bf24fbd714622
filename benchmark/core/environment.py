"""Environment variables for the processes that are started here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# The current folder is not searched for modules: a user's own files there may have any name.
SAFE_PATH = {"PYTHONSAFEPATH": "1"}


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set these variables while this lasts; then restore them."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
