"""scores.json: a cell's scores on each test image.

With them, tables can test differences without opening the predictions. The scores of an
image's examples are added up: its questions are not independent of each other, so a test may
shuffle only whole images. Sums are in percent, rounded to 3 decimals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlpeft.benchmark.core.config import Config, dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import encode_json, read_bytes
from vlpeft.benchmark.core.versioned import parse_versioned

NAME = "scores.json"
SCORES_SCHEMA = 1
DECIMALS = 3


@dataclass(frozen=True)
class ImageScores(Config):
    """The scores of one task of a cell, by image.

    Attributes:
        task: `task/dataset`.
        images: Image ids, each once. The ids of an example with several are joined by "+".
        examples: The number of examples of each image.
        sums: For each metric, the sum of the scores of each image's examples, in percent.
            Metrics that are not a mean over examples are left out.
    """

    task: str
    images: tuple[str, ...]
    examples: tuple[int, ...]
    sums: dict[str, tuple[float, ...]]

    def mean(self, metric: str) -> float:
        """Return the metric's value, up to the rounding of the sums."""
        return sum(self.sums[metric]) / sum(self.examples)


@dataclass(frozen=True)
class ScoresFile(Config):
    """The content of scores.json."""

    parts: tuple[ImageScores, ...]
    schema: int = SCORES_SCHEMA


def by_image(
    task: str, images: Sequence[Sequence[str]], per_example: Mapping[str, Sequence[float]]
) -> ImageScores:
    """Add up the scores of each image's examples.

    Args:
        task: `task/dataset`.
        images: The image ids of each example.
        per_example: For each metric, the score of each example in percent, in the same order.
    """
    numbers: dict[str, int] = {}  # image -> its position
    image_of = [numbers.setdefault("+".join(ids), len(numbers)) for ids in images]
    counts = [0] * len(numbers)
    sums = {metric: [0.0] * len(numbers) for metric in per_example}
    for i, image in enumerate(image_of):
        counts[image] += 1
        for metric, scores in per_example.items():
            sums[metric][image] += scores[i]
    rounded = {}
    for metric, totals in sums.items():
        rounded[metric] = tuple(round(total, DECIMALS) for total in totals)
    return ImageScores(task, tuple(numbers), tuple(counts), rounded)


def to_bytes(parts: Sequence[ImageScores]) -> bytes:
    """Return the file's content: compact JSON. Equal scores give equal bytes."""
    values = dump(ScoresFile(()))
    values["parts"] = [{**dump(part), "sums": shorten_numbers(part.sums)} for part in parts]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return encode_json(f"{text}\n")


def shorten_numbers(sums: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return the same numbers, with whole ones as integers.

    Most sums of accuracies are whole, and JSON is shorter without their ".0".
    """
    return {metric: [_shorten(float(value)) for value in values] for metric, values in sums.items()}


def _shorten(value: float) -> float:
    if value.is_integer():
        return int(value)
    return value


def read_scores(path: Path) -> tuple[ImageScores, ...]:
    """Read and check scores.json, one entry for each task.

    Return nothing if the file does not exist: records of older versions have none. Raises
    UserError for a damaged file.
    """
    damaged = "not readable ({}); delete it to do without tests of significance for this cell"
    try:
        text = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise UserError(f"{path}: {damaged.format(error)}") from error
    parts = parse_versioned(ScoresFile, text, path, SCORES_SCHEMA, "scores", damaged).parts
    for part in parts:
        check_lengths(part, str(path))
    return parts


def check_lengths(part: ImageScores, where: str) -> None:
    """Raise UserError unless each list has one entry for each image, and no image is repeated."""
    images = len(part.images)
    lengths = {images, len(set(part.images)), len(part.examples), *map(len, part.sums.values())}
    if lengths != {images} or not part.images:
        raise UserError(
            f"{where}: {part.task}: lists of unequal length, or an image twice; "
            "it was not written by this version"
        )
