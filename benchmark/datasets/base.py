"""The interface of a dataset: the examples of a split, and their images.

A file format is one small class, a dataset is one YAML.
"""

from __future__ import annotations

import hashlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

    The task decides what the texts are:

    * `vqa`: the question, and its answers (ten in VQAv2, one elsewhere).
    * `captioning`: "", and the reference captions.
    * `entailment`: the hypothesis, and "entailment", "neutral" or "contradiction".
    * `nlvr2`: the statement, and "true" or "false"; there are two images, left and right.
    """

    id: str
    images: tuple[str, ...]  # ids for `DataFormat.image` or `DataFormat.features`
    question: str
    answers: tuple[str, ...]
    kind: str = ""  # the type of question, for breakdowns


@dataclass(frozen=True)
class DataFormat(Config, ABC):
    """A file format; its fields are keys of a dataset YAML.

    `root` is the folder of the files; it is not part of a cell's identity. Building the object
    reads no file, and neither does `splits`. Every other method may read files.
    """

    name: ClassVar[str]  # set by @register
    tasks: ClassVar[tuple[str, ...]]  # set by @register

    root: str = ""

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""

    @abstractmethod
    def examples(self, task: str, split: str) -> Sequence[Example]:
        """Return all examples of a split, in the order of the files.

        Raises:
            DataError: A file or a record is wrong; names the file, the record and the fix.
        """

    @abstractmethod
    def image(self, image: str) -> Pixels:
        """Decode one image by its id to (height, width, 3) RGB values.

        Raises:
            DataError: The file is missing or damaged; names the file.
        """

    @property
    def has_features(self) -> bool:
        """Whether the images are given as features instead of pixels. Reads no file."""
        return False

    def features(self, image: str) -> Features:
        """Return the features (tokens, width) of one image by its id, if `has_features`.

        Raises:
            DataError: The file is missing or damaged, or the dataset has pixels.
        """
        raise DataError(
            f"data format '{self.name}' gives images, not features: {image};"
            " use a backbone with a vision tower"
        )

    def counts(self, split: str, examples: Sequence[Example]) -> dict[str, int]:
        """Count what `vlpeft data check` compares with the `expected` numbers of the YAML.

        Args:
            split: The name of the split.
            examples: The examples of the split.
        """
        images: set[str] = set()
        for example in examples:
            images.update(example.images)
        return {
            "examples": len(examples),
            "images": len(images),
            "answers": sum(len(example.answers) for example in examples),
        }

    def image_stamp(self, image: str) -> str:
        """Return the size and modification time of an image file, to notice a changed file.

        It is "" for images that are not files in `root`.
        """
        if not self.root:
            return ""
        try:
            about = os.stat(os.path.join(self.root, image))  # noqa: PTH116, PTH118
        except (OSError, ValueError):
            return ""
        if not stat.S_ISREG(about.st_mode):
            return ""
        return f"{about.st_size} {about.st_mtime_ns}"

    def record_place(self, split: str, identifier: str) -> str:
        """Return the file and the name of the record of an example, for error messages."""
        return f"data format '{self.name}': split '{split}': example {identifier}"

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash (12 hex digits) of the content of the annotations.

        It does not depend on the place of the files: equal data has equal fingerprints.
        """


def read_examples(data: DataFormat, task: str, split: str) -> Sequence[Example]:
    """Return the examples of a split, after a check of their texts, for any format.

    Raises:
        DataError: A file or a record is wrong, or a text holds half of a character, such as
            "\\ud83d" alone, which no file in UTF-8 can hold.
    """
    examples = data.examples(task, split)
    for example in examples:
        texts = (example.id, *example.images, example.question, *example.answers, example.kind)
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            place = data.record_place(split, example.id)
            wrong = next(text for text in texts if is_broken(text))
            raise DataError(
                f"{_escape(place)}: '{_escape(wrong)}' holds half of a character;"
                " write it whole, or remove it"
            ) from error
    return examples


def image_fingerprint(data: DataFormat, images: Iterable[str]) -> str:
    """Return hashes of the names, the sizes and the modification times of image files.

    They show cheaply that images were replaced: no image is read. The result is "" for images
    that are not files.
    """
    names, sizes, times = (hashlib.sha256() for _ in range(3))
    has_files = False
    for image in sorted(set(images)):
        size, _, time = data.image_stamp(image).partition(" ")
        has_files = has_files or bool(size)
        for digest, text in ((names, image), (sizes, size), (times, time)):
            digest.update(text.encode(errors="surrogateescape") + b"\0")
    if not has_files:
        return ""
    return "-".join(digest.hexdigest()[:8] for digest in (names, sizes, times))


def is_broken(text: str) -> bool:
    """Return whether a text holds half of a character, which UTF-8 cannot encode."""
    return text != text.encode(errors="replace").decode()


def _escape(text: str) -> str:
    """Return the text with halves of characters as \\udXXX."""
    return text.encode(errors="backslashreplace").decode()
