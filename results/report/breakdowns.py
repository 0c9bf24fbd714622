"""Tables with shaded cells: metrics by question type, and the shading of score tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vlpeft.results.report.data import ReportModel, Score
from vlpeft.results.tables.blocks import Block, Text
from vlpeft.results.tables.captions import plus_minus

ColumnShare = (
    float | None
)  # between the lowest (0) and the highest (1) of a column; None for no score


@dataclass(frozen=True)
class Heat:
    """A cell of a breakdown: its text and its shade."""

    text: str
    share: ColumnShare


@dataclass(frozen=True)
class Breakdown:
    """One metric by question type: a row a method."""

    backbone: str
    data: str
    metric: str
    seeds: str
    kinds: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Heat, ...]], ...]


def breakdowns(model: ReportModel) -> Iterator[Breakdown]:
    """Yield the metrics that have parts (`metric/kind`), by backbone and data."""
    found: dict[tuple[str, str, str], list[Score]] = {}
    for score in model.scores:
        entry = score.entry
        metric, slash, _ = entry.metric.partition("/")
        if slash:
            place = entry.backbone, f"{entry.task}/{entry.dataset}", metric
            found.setdefault(place, []).append(score)
    for (backbone, data, metric), own in found.items():
        methods = list(dict.fromkeys(score.entry.method for score in own))
        kinds = tuple(dict.fromkeys(map(_kind, own)))
        by = {(score.entry.method, _kind(score)): score for score in own}
        columns = [_heats([by.get((method, kind)) for method in methods]) for kind in kinds]
        rows = tuple(zip(methods, zip(*columns, strict=True), strict=True))
        yield Breakdown(backbone, data, metric, _seeds(own), kinds, rows)


def _kind(score: Score) -> str:
    return score.entry.metric.partition("/")[2]


def _seeds(scores: Sequence[Score]) -> str:
    """Return the number of seeds, or a range."""
    counts = sorted({score.entry.n for score in scores if score.entry.mean is not None})
    if not counts:
        return "0"
    return " to ".join(dict.fromkeys((str(counts[0]), str(counts[-1]))))


def _heats(scores: Sequence[Score | None]) -> list[Heat]:
    """Return the cells of a column."""
    means = [None if score is None else score.entry.mean for score in scores]
    return list(map(Heat, map(_mean, scores), _shares(means)))


def _mean(score: Score | None) -> str:
    """Return the mean of a score, or its state."""
    if score is None:
        return ""
    entry = score.entry
    if entry.mean is None:
        return entry.state.kind
    return f"{entry.mean:.1f}{plus_minus(entry.std)}"


def block_shares(block: Block) -> list[tuple[ColumnShare, ...]]:
    """Return the shade of each cell of a score table whose last two columns are not scores."""
    last = len(block.align) - 2
    columns = []
    for i, column in enumerate(zip(*block.rows, strict=True)):
        if 1 <= i < last:
            columns.append(_shares(list(map(_number, column))))
        else:
            columns.append([None] * len(column))
    return list(zip(*columns, strict=True))


def _number(cell: Text) -> ColumnShare:
    """Return the number that a cell begins with; None for a cell with footnotes."""
    found = re.match(r"-?\d+(\.\d+)?(?![\d/])", cell.text)
    if cell.marks or found is None:
        return None
    return float(found[0])


def _shares(values: Sequence[float | None]) -> list[ColumnShare]:
    """Return the place of each value between the lowest and the highest."""
    known = [value for value in values if value is not None]
    if not known:
        return [None] * len(values)
    low, high = min(known), max(known)
    return [_share(value, low, high) for value in values]


def _share(value: float | None, low: float, high: float) -> ColumnShare:
    if value is None or high == low:
        return None
    return round((value - low) / (high - low), 3)
