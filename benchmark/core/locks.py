"""Locks on files, which the kernel frees when their holder dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vlpeft.benchmark.core.errors import UserError


@contextmanager
def hold(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock of a file inside the `with` block.

    Args:
        path: The file; it is created.
        seconds: How long to wait for another holder.

    Raises:
        Timeout: Another process holds it.
        UserError: The file cannot be locked: it is a folder or a link, or the disk has no locks.
    """
    lock = FileLock(path, timeout=seconds)
    try:
        lock.acquire()
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot lock {path}: {reason}; delete it, "
            "or choose a writable --root with free space on a disk with locks"
        ) from error
    try:
        yield
    finally:
        lock.release()
