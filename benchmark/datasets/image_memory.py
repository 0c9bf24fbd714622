"""The memory that images take while they are decoded, in all threads together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT = 1 << 30  # bytes


class ImageMemory:
    """A number of bytes that threads share.

    A thread waits until there is room for its image. An image that is larger than all is decoded
    alone.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._free = threading.Condition()
        self._own = threading.local()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep what the thread reserves in the `with` block until its end.

        Use it around the decoding of an image and what is made of it.
        """
        if self._held() is not None:
            yield
            return
        self._own.held = 0
        try:
            yield
        finally:
            held, self._own.held = self._own.held, None
            with self._free:
                self.used -= held
                self._free.notify_all()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Wait for room, and take it until the end of the outermost `hold`, or of the block."""
        with self.hold():
            with self._free:
                # A thread that has some never waits: two of these would wait for each other.
                while not self._own.held and self.used and self.used + size > self.limit:
                    self._free.wait()
                self.used += size
                self._own.held += size
            yield

    def _held(self) -> int | None:
        held: int | None = getattr(self._own, "held", None)
        return held


MEMORY = ImageMemory(LIMIT)
