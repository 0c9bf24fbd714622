"""Environment variables for child processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Python then does not search the current folder for modules, so a user's files there may have
# any name, even one of the standard library.
SAFE_PATH = {"PYTHONSAFEPATH": "1"}


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables inside the `with` block; restore the old values after it."""
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
