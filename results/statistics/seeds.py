"""`vlpeft seeds`: how many seeds would show a difference between each pair of methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np

from vlpeft.results.leaderboard import Leaderboard
from vlpeft.results.statistics.crossed import image_errors
from vlpeft.results.statistics.power import seeds_needed, sign_flip_needs, upper_spread
from vlpeft.results.statistics.significance import (
    ColumnPlace,
    Significance,
    TestedColumn,
    subtract_by_seed,
)
from vlpeft.results.tables.blocks import Block, Table, Text, one_line

HEADER = ("method", "other", "difference", "seeds", "spread", "images", "needs", "at most", "hours")
SECONDS = 3600  # of an hour
ColumnMethod = tuple[str, str, str, str, str]  # a ColumnPlace and a method


@dataclass(frozen=True)
class PairNeeds:
    """Two methods of a column, and the seeds that would show a difference between them.

    Attributes:
        difference: The first minus the other, in points: the mean over the seeds of both.
        n: Those seeds.
        spread: The standard deviation of the difference over them.
        image_error: Its standard error over images; more seeds do not reduce it.
        seeds: How many are needed; None if no number is enough.
        at_most: The same for the upper limit of the spread, at 80 %.
        hours: Of training and evaluating both methods with the seeds that are still missing.
    """

    backbone: str
    task: str
    dataset: str
    metric: str
    method: str
    other: str
    difference: float
    n: int
    spread: float
    image_error: float | None
    seeds: int | None
    at_most: int | None
    hours: float | None


def seeds_table(board: Leaderboard, tests: Significance, detect: float) -> Table:
    """Return a block for each column, with a row for each pair of methods.

    Args:
        board: The results.
        tests: Of `significance`.
        detect: The difference to find, in points.
    """
    seconds = _seconds(board)
    caption = [
        f"How many seeds find a difference of {detect:g} points four times out of five, at 5 %.",
        "spread: standard deviation of the difference over the seeds that both have. images: its "
        "standard error over images, which seeds do not reduce. at most: for the upper 80 % limit "
        "of the spread, because a few seeds estimate it poorly. hours: of both methods, for the "
        "seeds that are still missing. never: the test split is too small for any number of seeds.",
        f"A sign-flip test over seeds needs {sign_flip_needs()} of them to reach 5 % at all.",
    ]
    for place, reason in tests.reasons.items():
        caption.append(one_line(f"Left out: {' / '.join(place)}: {reason}."))
    blocks, data = [], []
    for place, column in tests.columns.items():
        pairs = list(_pairs(place, column, seconds, detect))
        if not pairs:
            caption.append(one_line(f"Left out: {' / '.join(place)}: a spread needs two seeds."))
            continue
        title = one_line(f"{place[0]}, {place[1]}/{place[2]}, {place[3]}")
        blocks.append(Block(title, "llrrrrrrr", (HEADER,), tuple(map(_line, pairs))))
        data += [asdict(pair) for pair in pairs]
    title = one_line(f"{board.title}: seeds")
    return Table(title, tuple(caption), tuple(blocks), tuple(data), remarks=board.remarks)


def _pairs(
    place: ColumnPlace, column: TestedColumn, seconds: Mapping[ColumnMethod, float], detect: float
) -> Iterator[PairNeeds]:
    for i, j in combinations(range(len(column.methods)), 2):
        by_seed = subtract_by_seed(column.seeds[i], column.seeds[j])
        if len(by_seed) < 2:
            continue
        spread = float(np.std(by_seed, ddof=1))
        error = _image_error(column, i, j)
        known = error or 0.0
        needed = seeds_needed(detect, spread, known)
        missing = max(0, needed - len(by_seed)) if needed is not None else None
        both = sum(seconds[*place, column.methods[k]] for k in (i, j))
        yield PairNeeds(
            *place,
            method=column.methods[i],
            other=column.methods[j],
            difference=float(np.mean(by_seed)),
            n=len(by_seed),
            spread=spread,
            image_error=error,
            seeds=needed,
            at_most=seeds_needed(detect, upper_spread(spread, len(by_seed)), known),
            hours=None if missing is None else missing * both / SECONDS,
        )


def _image_error(column: TestedColumn, i: int, j: int) -> float | None:
    """Return the standard error over images, which seeds do not reduce; None for one image."""
    sums = np.array(subtract_by_seed(column.by_seed[i], column.by_seed[j]))
    (error,) = image_errors(sums[None], column.examples)
    return None if np.isnan(error) else float(error)


def _seconds(board: Leaderboard) -> dict[ColumnMethod, float]:
    """Return the seconds that a cell of each method took, in each column."""
    frame = board.frame
    frame = frame.assign(seconds=frame["train_seconds"] + frame["eval_seconds"])
    keys = ["backbone", "task", "dataset", "metric", "method"]
    means = frame.groupby(keys, sort=False)["seconds"].mean().reset_index()
    columns = [means[name].tolist() for name in (*keys, "seconds")]
    return {(*key,): seconds for *key, seconds in zip(*columns, strict=True)}


def _line(pair: PairNeeds) -> tuple[Text, ...]:
    return tuple(
        Text(one_line(text))
        for text in (
            pair.method,
            pair.other,
            f"{pair.difference:+.2f}",
            str(pair.n),
            f"{pair.spread:.2f}",
            "" if pair.image_error is None else f"{pair.image_error:.2f}",
            _number(pair.seeds),
            _number(pair.at_most),
            "" if pair.hours is None else f"{pair.hours:.2g}",
        )
    )


def _number(seeds: int | None) -> str:
    return "never" if seeds is None else f"{seeds:,}"
