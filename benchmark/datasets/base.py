"""What a dataset gives: examples of a split, and their images. One small class a file format, one YAML a dataset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vlpeft.benchmark.core.config import Config
from vlpeft.benchmark.core.errors import DataError

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB
Features = NDArray[np.float32]  # (tokens, width)


@dataclass(frozen=True)
class Example:
    """One annotated example.

    `vqa`: question and its answers (ten for VQAv2, or one). `captioning`: question is "" and answers are the
    reference captions. `entailment`: the hypothesis, and "entailment", "neutral" or "contradiction". `nlvr2`: the statement,
    and "true" or "false"; it is about two images, left and right.
    """

    id: str
    images: tuple[str, ...]  # ids for `DataFormat.image` or `DataFormat.features`
    question: str
    answers: tuple[str, ...]
    kind: str = ""  # question type, for breakdowns


@dataclass(frozen=True)
class DataFormat(Config, ABC):
    """A file format: its fields are the keys of a dataset YAML (those of `vlpeft.benchmark.datasets.Card` aside).

    `root` is where the files lie; it is no part of a cell's identity. Building the object reads no file; every method
    but `splits` may.
    """

    name: ClassVar[str]  # set by @register
    tasks: ClassVar[tuple[str, ...]]  # set by @register

    root: str = ""

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""

    @abstractmethod
    def examples(self, task: str, split: str) -> Sequence[Example]:
        """All examples of a split in the files' order. Raises DataError naming file, record and fix."""

    @abstractmethod
    def image(self, image: str) -> Pixels:
        """Decode one image by the id its examples use. Raises DataError naming the file."""

    @property
    def has_features(self) -> bool:
        """Whether the images are given as features (by `features`), not as pixels (by `image`); no file is read to know."""
        return False

    def features(self, image: str) -> Features:
        """The features of one image by its id, (tokens, width), of a dataset that is `precomputed`.

        Raises DataError naming the file where it is missing or damaged, and for datasets of pixels.
        """
        raise DataError(
            f"data format '{self.name}' gives images, not features: {image}; use a backbone with a vision tower"
        )

    def counts(self, split: str, examples: Sequence[Example]) -> dict[str, int]:  # noqa: ARG002
        """What `vlpeft data check` compares with the `expected` numbers of the dataset's YAML; `examples` are the split's."""
        images = {image for example in examples for image in example.images}
        return {
            "examples": len(examples),
            "images": len(images),
            "answers": sum(len(example.answers) for example in examples),
        }

    def image_stamp(self, image: str) -> str:
        """Changes when the image's file does: its size and time of change. "" for images that are not files below `root`."""
        path = Path(self.root) / image
        if not self.root or not path.is_file():
            return ""
        about = path.stat()
        return f"{about.st_size} {about.st_mtime_ns}"

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash (12 hex digits) of the annotations' content: equal data has equal fingerprints wherever it lies."""
