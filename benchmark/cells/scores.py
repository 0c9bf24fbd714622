"""scores.json: what a cell scored on each test image, so that tables can test differences without opening the predictions.

Scores of an image's examples are added up: its questions are not independent of each other, so a test may only shuffle
images. Sums are rounded to 3 decimals of a per cent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlpeft.benchmark.core.config import Config, dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.versioned import parse_versioned

NAME = "scores.json"
SCORES_SCHEMA = 1
DECIMALS = 3


@dataclass(frozen=True)
class ImageScores(Config):
    """One task of a cell, by image.

    images: names, each once; of an example about several, joined by "+".  examples: how many examples each has.
    sums: metric -> the sum of its examples' scores for each image, in per cent; metrics that are no mean over examples are not in it.
    """

    task: str  # task/dataset
    images: tuple[str, ...]
    examples: tuple[int, ...]
    sums: dict[str, tuple[float, ...]]

    def mean(self, metric: str) -> float:
        """The metric's value, up to the rounding of the sums."""
        return sum(self.sums[metric]) / sum(self.examples)


@dataclass(frozen=True)
class ScoresFile(Config):
    """The file."""

    parts: tuple[ImageScores, ...]
    schema: int = SCORES_SCHEMA


def by_image(
    task: str, images: Sequence[Sequence[str]], per_example: Mapping[str, Sequence[float]]
) -> ImageScores:
    """Add up the scores of each image's examples.

    images: the ids of each example's images; per_example: metric -> scores, in the same order.
    """
    place: dict[str, int] = {}
    of = [place.setdefault("+".join(ids), len(place)) for ids in images]
    counts = [0] * len(place)
    sums = {metric: [0.0] * len(place) for metric in per_example}
    for i, image in enumerate(of):
        counts[image] += 1
        for metric, scores in per_example.items():
            sums[metric][image] += scores[i]
    rounded = {
        metric: tuple(round(total, DECIMALS) for total in totals) for metric, totals in sums.items()
    }
    return ImageScores(task, tuple(place), tuple(counts), rounded)


def to_bytes(parts: Sequence[ImageScores]) -> bytes:
    """The file's content: compact JSON; equal scores give equal bytes."""
    values = {
        **dump(ScoresFile(())),
        "parts": [{**dump(part), "sums": shorten_numbers(part.sums)} for part in parts],
    }
    return (
        json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    ).encode()


def shorten_numbers(sums: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """The same numbers, whole ones (of accuracies, most) without a point, which takes less room in JSON."""
    return {
        metric: [int(value) if value.is_integer() else value for value in map(float, values)]
        for metric, values in sums.items()
    }


def read_scores(path: Path) -> tuple[ImageScores, ...]:
    """Read and check the file; nothing where there is none, as beside records of older versions. Raises UserError for a damaged one."""
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    damaged = "not readable ({}); delete it to do without tests of significance for this cell"
    parts = parse_versioned(ScoresFile, text, path, SCORES_SCHEMA, "scores", damaged).parts
    for part in parts:
        check_lengths(part, str(path))
    return parts


def check_lengths(part: ImageScores, where: str) -> None:
    """Raise UserError unless every list has one entry an image, and every image is there once."""
    lengths = {
        len(part.images),
        len(set(part.images)),
        len(part.examples),
        *map(len, part.sums.values()),
    }
    if lengths != {len(part.images)} or not part.images:
        raise UserError(
            f"{where}: {part.task}: lists of unequal length, or an image twice; it was not written by this version"
        )
