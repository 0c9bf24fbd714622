"""`vlpeft table --significance`: the best method of each column compared with every other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from vlpeft.results.leaderboard import Leaderboard
from vlpeft.results.statistics.crossed import SEEDS
from vlpeft.results.statistics.paired import Difference, seed_interval
from vlpeft.results.statistics.significance import ColumnPlace, Significance, TestedColumn
from vlpeft.results.tables.blocks import Block, Table, Text, one_line

HEADER = (
    "rank",
    "method",
    "mean",
    "95 % over seeds",
    "gap from best",
    "95 % over images",
    "p, images",
    "p, both",
    "p (Holm)",
    "detectable",
    "with each seed",
)
CAPTION = (
    "gap from best: points, means over seeds; 95 % over images: clustered by image. "
    "p, images: sign flips of whole images; it takes the trained models as they are. "
    f"p, both: over seeds and images, by Student's t; empty with fewer than {SEEDS} seeds, which "
    "are too few to say more than that the methods differ on these images. "
    "p (Holm): of the larger of the two, corrected for the comparisons of the block. "
    "detectable: the difference that a test over images finds four times out of five. "
    "95 % over seeds: of the mean, by Student's t. "
    "with each seed: the difference seed by seed.",
    "Rank 1 is shared by the methods that the best does not clearly beat: p (Holm) is 5 % or more, "
    f"or, with fewer than {SEEDS} seeds, one seed shows no difference or the opposite one.",
)
UNTESTED_TEXTS = ("",) * 7  # of the best method, which is not compared with itself


def significance_table(board: Leaderboard, tests: Significance) -> Table:
    """Return one block for each tested column of the score table.

    The caption lists the columns that cannot be tested, with the reason.
    """
    caption = [*CAPTION]
    for place, reason in tests.reasons.items():
        caption.append(one_line(f"Not tested: {' / '.join(place)}: {reason}."))
    blocks, data = [], []
    for place, column in tests.columns.items():
        rows = list(_data(place, column))
        blocks.append(_block(place, column, rows))
        data += rows
    return Table(
        one_line(f"{board.title}: differences"),
        tuple(caption),
        tuple(blocks),
        tuple(data),
        remarks=board.remarks,
    )


def _block(place: ColumnPlace, column: TestedColumn, rows: list[dict[str, Any]]) -> Block:
    backbone, task, dataset, metric = place
    examples, images = int(column.examples.sum()), len(column.examples)
    title = f"{backbone}, {task}/{dataset}, {metric}: {examples:,} examples, {images:,} images"
    lines = tuple(_line(row, column) for row in rows)
    return Block(one_line(title), "rlrrrrrrrrr", (HEADER,), lines)


def _data(place: ColumnPlace, column: TestedColumn) -> Iterator[dict[str, Any]]:
    """Yield a row a method, the best first.

    Equal ranks are sorted by mean, equal means by the plan's order.
    """
    backbone, task, dataset, metric = place
    where = {"backbone": backbone, "task": task, "dataset": dataset, "metric": metric}
    means = dict(zip(column.methods, map(float, column.means), strict=True))
    ranks = column.ranks
    for method in sorted(column.methods, key=lambda name: (ranks[name], -means[name])):
        yield {**where, **_row(method, column, means[method], ranks[method])}


def _row(method: str, column: TestedColumn, mean: float, rank: int) -> dict[str, Any]:
    """Return the statistics of one method."""
    values = list(column.seeds[column.methods.index(method)].values())
    low, high = seed_interval(values) or (None, None)
    return {
        "method": method,
        "rank": rank,
        "mean": mean,
        "n": len(values),
        "seeds_low": low,
        "seeds_high": high,
        "best": column.best,
        **_difference(method, column, column.below.get(method)),
        "images": len(column.examples),
        "examples": int(column.examples.sum()),
    }


def _difference(method: str, column: TestedColumn, difference: Difference | None) -> dict[str, Any]:
    """Return the statistics of the best minus a method, None for the best itself."""
    if difference is None:
        keys = ("difference", "low", "high", "p", "p_both", "p_holm", "detectable")
        return {**dict.fromkeys(keys), "with_each_seed": ()}
    return {
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "p": difference.p,
        "p_both": difference.p_both,
        "p_holm": difference.corrected,
        "detectable": difference.detectable,
        "with_each_seed": tuple(column.differences_by_seed(method)),
    }


def _line(row: dict[str, Any], column: TestedColumn) -> tuple[Text, ...]:
    """Return the cells of a row."""
    is_best = row["difference"] is None
    interval = ""
    if row["seeds_low"] is not None:
        interval = f"± {(row['seeds_high'] - row['seeds_low']) / 2:.1f}"
    tested = UNTESTED_TEXTS if is_best else _tested(row)
    return (
        Text(str(row["rank"])),
        Text(one_line(row["method"])),
        Text(f"{row['mean']:.1f}", bold=is_best and column.clear),
        Text(interval),
        *map(Text, tested),
    )


def _tested(row: dict[str, Any]) -> Iterator[str]:
    """Yield the cells about the difference. NaN, as of a single image, is left empty."""
    yield f"{row['difference']:.2f}"
    yield "" if math.isnan(row["low"]) else f"{row['low']:+.2f} to {row['high']:+.2f}"
    yield f"{row['p']:.4f}"
    yield "" if row["p_both"] is None else f"{row['p_both']:.4f}"
    yield f"{row['p_holm']:.4f}"
    yield "" if math.isnan(row["detectable"]) else f"{row['detectable']:.2f}"
    yield " ".join(f"{each:+.2f}" for each in row["with_each_seed"])
