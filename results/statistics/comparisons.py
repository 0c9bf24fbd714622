"""`vlpeft table --significance`: in each column the best method beside every other, with what the tests say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from vlpeft.results.leaderboard import Leaderboard
from vlpeft.results.statistics.paired import seed_interval
from vlpeft.results.statistics.significance import ColumnPlace, Significance, TestedColumn
from vlpeft.results.tables.table import Block, Table, Text, one_line

HEADER = (
    "rank",
    "method",
    "mean",
    "95 % over seeds",
    "best minus it",
    "95 % over images",
    "p",
    "p (Holm)",
    "detectable",
    "with each seed",
)
CAPTION = (
    "best minus it: points, means over seeds; 95 % over images: clustered by image. p: sign flips of whole images. "
    "p (Holm): corrected for the comparisons of the block. detectable: the difference that such a test finds four times of five. "
    "95 % over seeds: of the mean, by Student's t. with each seed: the difference seed by seed.",
    "Rank 1 is shared by those that the best has not beaten: p (Holm) is 5 % or more, or a seed turns the difference round.",
)


def significance_table(board: Leaderboard, tests: Significance) -> Table:
    """One block a column of the score table; columns that cannot be tested stand in the caption, with the reason."""
    blocks = tuple(_block(place, column) for place, column in tests.columns.items())
    data = tuple(row for place, column in tests.columns.items() for row in _data(place, column))
    untested = (
        f"Not tested: {' / '.join(place)}: {reason}." for place, reason in tests.reasons.items()
    )
    return Table(
        one_line(f"{board.title}: differences"),
        (*CAPTION, *map(one_line, untested)),
        blocks,
        data,
        remarks=board.remarks,
    )


def _block(place: ColumnPlace, column: TestedColumn) -> Block:
    backbone, task, dataset, metric = place
    title = f"{backbone}, {task}/{dataset}, {metric}: {int(column.examples.sum()):,} examples, {len(column.examples):,} images"
    return Block(
        one_line(title),
        "rlrrrrrrrr",
        (HEADER,),
        tuple(_line(row, column) for row in _data(place, column)),
    )


def _data(place: ColumnPlace, column: TestedColumn) -> Iterator[dict[str, Any]]:
    """Best first; of equal ranks the higher mean, then the plan's order."""
    means, found = dict(zip(column.methods, map(float, column.means), strict=True)), column.ranks
    for method in sorted(column.methods, key=lambda name: (found[name], -means[name])):
        yield {
            **dict(zip(("backbone", "task", "dataset", "metric"), place, strict=True)),
            **_row(method, column, means[method], found[method]),
        }


def _row(method: str, column: TestedColumn, mean: float, rank: int) -> dict[str, Any]:
    values = list(column.seeds[column.methods.index(method)].values())
    interval, difference = seed_interval(values), column.below.get(method)
    low, high = interval or (None, None)
    return {
        "method": method,
        "rank": rank,
        "mean": mean,
        "n": len(values),
        "seeds_low": low,
        "seeds_high": high,
        "best": column.best,
        "difference": difference and difference.value,
        "low": difference and difference.low,
        "high": difference and difference.high,
        "p": difference and difference.p,
        "p_holm": difference and difference.corrected,
        "detectable": difference and difference.detectable,
        "with_each_seed": tuple(column.differences_by_seed(method)) if difference else (),
        "images": len(column.examples),
        "examples": int(column.examples.sum()),
    }


def _line(row: dict[str, Any], column: TestedColumn) -> tuple[Text, ...]:
    best = row["difference"] is None
    bold = best and column.clear
    texts = (
        str(row["rank"]),
        one_line(row["method"]),
        f"{row['mean']:.1f}",
        "" if row["seeds_low"] is None else f"± {(row['seeds_high'] - row['seeds_low']) / 2:.1f}",
        *(("",) * 6 if best else _tested(row, column)),
    )
    return tuple(Text(text, bold=bold and i == 2) for i, text in enumerate(texts))


def _tested(row: dict[str, Any], column: TestedColumn) -> Iterator[str]:
    yield f"{row['difference']:.2f}"
    yield "" if math.isnan(row["low"]) else f"{row['low']:+.2f} to {row['high']:+.2f}"
    yield f"{row['p']:.4f}"
    yield f"{row['p_holm']:.4f}"
    yield "" if math.isnan(row["detectable"]) else f"{row['detectable']:.2f}"
    yield " ".join(f"{d:+.2f}" for d in column.differences_by_seed(row["method"]))
