"""A split that is cut out of another one, for datasets without a validation split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from vlpeft.benchmark.core.config import Config, Seed
from vlpeft.benchmark.datasets.base import Example

HASH_BITS = 64


@dataclass(frozen=True)
class Cut(Config):
    """The key `cut:` of a dataset YAML. All examples of an image are on the same side.

    Attributes:
        name: The new split.
        of: The split that it is cut out of, which stays as it is.
        share: The share of the images in the new split.
        seed: Another seed cuts out other images.
    """

    name: str = "val"
    of: str = "train"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    seed: Seed = 0

    @property
    def rest(self) -> str:
        """The name of the split with all other examples of `of`."""
        return f"{self.of} without {self.name}"

    def names(self) -> tuple[str, str]:
        """Return the names of the two splits that the cut adds."""
        return self.name, self.rest

    def select(self, examples: Sequence[Example], split: str) -> list[Example]:
        """Return the examples of `of` that are in one of the two splits.

        An example whose images are on both sides is in neither.
        """
        wanted = split == self.name
        return [
            example
            for example in examples
            if all(self._is_cut_out(image) == wanted for image in example.images)
        ]

    def _is_cut_out(self, image: str) -> bool:
        """Return whether an image is in the new split; its hash decides, not its place."""
        digest = hashlib.sha256(f"{self.seed}:{image}".encode()).digest()
        place = int.from_bytes(digest[: HASH_BITS // 8], "big") / 2**HASH_BITS
        return bool(place < self.share)
