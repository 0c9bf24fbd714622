"""`vlpeft params`: what each method trains at full size, compared with what papers say.

It needs no weights, and reads data only to count answers where it is on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Cell, Choice, Planned
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.core.config import JSON, Config, dump_identity, load_yaml, parse
from vlpeft.benchmark.core.registry import Registry
from vlpeft.benchmark.plan.answers import count_answers
from vlpeft.benchmark.plan.check import combinations
from vlpeft.benchmark.plan.counts import count_parameters
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.results.tables.blocks import Block, Table, Text, one_line

PUBLISHED = Path(__file__).resolve().parents[1] / "published" / "parameters.yaml"
# Of a printed percentage: papers round or cut off the second decimal.
TOLERANCE = 0.0101
HEADER = (
    "backbone",
    "method",
    "trainable",
    "total",
    "%",
    "% without vision",
    "expected",
    "printed %",
    "of",
    "verdict",
)
CAPTION = (
    "trainable: task head included. total: both towers and what the method added.",
    "expected: from released code, or derived where there is none. printed %: the paper's. "
    "equal: counts; percentages to 0.01.",
)
# What a printed percentage is of.
ShareBase = Literal["without_vision", "text", "unstated"]
SHARES = {
    "without_vision": "all but vision",
    "text": "language tower, no head",
    "unstated": "not stated",
    None: "",
}


@dataclass(frozen=True)
class Published(Config):
    """One row of `published/parameters.yaml`; the comment at its top explains the keys."""

    source: str
    backbone: dict[str, JSON]
    method: dict[str, JSON]
    share: ShareBase
    tasks: int | None = None
    percent: float | None = None
    trainable: int | None = None
    derived: bool = False


@dataclass(frozen=True)
class PublishedFile(Config):
    """The file: sources by name, and rows."""

    sources: dict[str, str]
    rows: tuple[Published, ...]


def parameter_rows(sweep: SweepHandle) -> list[dict[str, Any]]:
    """Return one row for each method and backbone of a sweep that work together, in its order."""
    return [_row(planned) for planned in combinations(sweep)]


def parameter_table(sweep: SweepHandle, rows: Sequence[dict[str, Any]]) -> Table:
    """Return the rows of `parameter_rows` for people."""
    body = tuple(tuple(map(Text, _texts(row))) for row in rows)
    sources = tuple(dict.fromkeys(row["source"] for row in rows if row["source"]))
    title = sweep.sweep.title or sweep.named
    block = Block("", "llrrrrrrll", (HEADER,), body)
    caption = (*CAPTION, *_answers(rows))
    return Table(one_line(title), caption, (block,), tuple(rows), notes=sources)


def _answers(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield which answers a classifier's head chooses from, by task."""
    for row in {row["task"]: row for row in rows}.values():
        yield f"{row['task']}: {row['answers']:,} answers, from {row['answers_from']}."


def _row(planned: Planned) -> dict[str, Any]:
    """Count the parameters of a cell, and compare them with what a paper says."""
    first = planned.cell.parts[0]
    answers, origin = count_answers(first)
    counts = count_parameters(planned.cell, answers)
    trainable, total = counts["trainable"], counts["total"]
    row = {
        "method": planned.row,
        "backbone": planned.backbone,
        **counts,
        "task": first.name,
        "answers": answers,
        "answers_from": origin,
        "percent": 100 * trainable / total,
        "percent_without_vision": 100 * trainable / (total - counts["vision"]),
        **_expected(planned.cell),
    }
    return {**row, "verdict": _verdict(row)}


def _expected(cell: Cell) -> dict[str, Any]:
    """Return what a paper says of a cell's method, with None where it says nothing."""
    published, source = _published(cell)
    if published is None:
        keys = ("published_trainable", "published_percent", "share", "derived")
        return {**dict.fromkeys(keys), "source": source}
    return {
        "published_trainable": published.trainable,
        "published_percent": published.percent,
        "share": published.share,
        "derived": published.derived,
        "source": source,
    }


def _verdict(row: dict[str, Any]) -> str:
    """Return "equal", or what differs.

    The percentage is compared only if the paper says what it is a share of.
    """
    share, percent = row["share"], row["published_percent"]
    if share is None:
        return ""
    counted = row["trainable"]
    if share == "text":
        counted -= row["head"]
    if row["published_trainable"] not in (None, counted):
        return f"differs: {counted:,}"
    if percent is not None and share == "without_vision":
        measured = row["percent_without_vision"]
        if abs(percent - measured) > TOLERANCE:
            return f"differs: {measured:.2f} %"
    if share != "unstated":
        return "equal"
    return f"{_count_verdict(row)}the % has no stated base"


def _count_verdict(row: dict[str, Any]) -> str:
    """Return what is known of a count that is not different."""
    if row["published_trainable"] is None:
        return ""
    if row["derived"]:
        return "count as derived; "
    return "count equal; "


def _texts(row: dict[str, Any]) -> Iterator[str]:
    """Yield the cells of a row."""
    yield from (row["backbone"], row["method"], f"{row['trainable']:,}", f"{row['total']:,}")
    yield from (f"{row['percent']:.3f}", f"{row['percent_without_vision']:.3f}")
    yield "" if row["published_trainable"] is None else f"{row['published_trainable']:,}"
    yield "" if row["published_percent"] is None else f"{row['published_percent']:.2f}"
    yield SHARES[row["share"]]
    yield row["verdict"]


def _published(cell: Cell) -> tuple[Published | None, str]:
    """Return what a paper says of a cell's method on its backbone, and its source."""
    for row, backbone, method, source in _known():
        same = (backbone, method) == (cell.backbone, cell.method)
        if same and row.tasks in (None, len(cell.parts)):
            return row, source
    return None, ""


@cache
def _known() -> tuple[tuple[Published, Choice, Choice, str], ...]:
    """Read the file: each row with its backbone, its method and its source."""
    file = parse(PublishedFile, load_yaml(PUBLISHED), str(PUBLISHED))
    known = []
    for row in file.rows:
        backbone, method = _choice(BACKBONES, row.backbone), _choice(METHODS, row.method)
        known.append((row, backbone, method, file.sources[row.source]))
    return tuple(known)


def _choice(registry: Registry[Any], item: dict[str, JSON]) -> Choice:
    """Return an entry of a registry with all its settings."""
    name = item["name"]
    settings = {key: value for key, value in item.items() if key != "name"}
    return Choice(name, dump_identity(parse(registry.load(name), settings, str(PUBLISHED))))
