"""`vlpeft params`: what every method of a sweep trains at full size, beside what papers say. Needs no weights and no data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Cell, Choice, Planned
from vlpeft.benchmark.contract.method import METHODS
from vlpeft.benchmark.core.config import JSON, Config, dump_identity, load_yaml, parse
from vlpeft.benchmark.core.registry import Registry
from vlpeft.benchmark.plan.check import combinations, count_parameters
from vlpeft.benchmark.plan.sweep import load_sweep
from vlpeft.results.tables.table import Block, Table, Text, one_line

PUBLISHED = Path(__file__).resolve().parents[1] / "published" / "parameters.yaml"
TOLERANCE = 0.0101  # of a printed percentage: papers round or cut off the second decimal
Share = Literal["without_vision", "text", "unstated"]


@dataclass(frozen=True)
class Published(Config):
    """One row of `published/parameters.yaml`; see the words at its top."""

    source: str
    backbone: dict[str, JSON]
    method: dict[str, JSON]
    share: Share
    tasks: int | None = None
    percent: float | None = None
    trainable: int | None = None
    derived: bool = False


@dataclass(frozen=True)
class PublishedFile(Config):
    """The file: sources by name, and rows."""

    sources: dict[str, str]
    rows: tuple[Published, ...]


def parameter_rows(name_or_path: str) -> list[dict[str, Any]]:
    """One row for each method and backbone of a sweep that go together, in its order."""
    return [_row(planned) for planned in combinations(name_or_path)]


def parameter_table(name_or_path: str, rows: list[dict[str, Any]]) -> Table:
    """For `vlpeft.results.tables.render.render`."""
    header = (
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
    body = tuple(tuple(Text(text) for text in _texts(row)) for row in rows)
    sources = tuple(dict.fromkeys(row["source"] for row in rows if row["source"]))
    title = load_sweep(name_or_path).title or name_or_path
    captions = (
        "trainable: task head included. total: both towers and what the method added.",
        "expected: from released code, or derived where there is none. printed %: the paper's. equal: counts; percentages to 0.01.",
    )
    return Table(
        one_line(title),
        captions,
        (Block("", "llrrrrrrll", (header,), body),),
        tuple(rows),
        notes=sources,
    )


def _row(planned: Planned) -> dict[str, Any]:
    counts = count_parameters(planned.cell, planned.cell.protocol.max_answers)
    trainable, total, without = (
        counts["trainable"],
        counts["total"],
        counts["total"] - counts["vision"],
    )
    published, source = _published(planned.cell)
    row = {
        "method": planned.row,
        "backbone": planned.backbone,
        **counts,
        "percent": 100 * trainable / total,
        "percent_without_vision": 100 * trainable / without,
        "published_trainable": published.trainable if published else None,
        "published_percent": published.percent if published else None,
        "share": published.share if published else None,
        "derived": published.derived if published else None,
        "source": source,
    }
    return {**row, "verdict": _verdict(row)}


def _verdict(row: dict[str, Any]) -> str:
    """equal, or where it is not; the percentage is only compared where the paper says of what it is."""
    if row["share"] is None:
        return ""
    counted = row["trainable"] - (row["head"] if row["share"] == "text" else 0)
    if row["published_trainable"] not in (None, counted):
        return f"differs: {counted:,}"
    percent = row["published_percent"]
    if (
        percent is not None
        and row["share"] == "without_vision"
        and abs(percent - row["percent_without_vision"]) > TOLERANCE
    ):
        return f"differs: {row['percent_without_vision']:.2f} %"
    if row["share"] != "unstated":
        return "equal"
    count = (
        ""
        if row["published_trainable"] is None
        else "count as derived; "
        if row["derived"]
        else "count equal; "
    )
    return f"{count}the % has no stated base"


def _texts(row: dict[str, Any]) -> Iterator[str]:
    yield from (row["backbone"], row["method"], f"{row['trainable']:,}", f"{row['total']:,}")
    yield from (f"{row['percent']:.3f}", f"{row['percent_without_vision']:.3f}")
    yield "" if row["published_trainable"] is None else f"{row['published_trainable']:,}"
    yield "" if row["published_percent"] is None else f"{row['published_percent']:.2f}"
    yield {
        "without_vision": "all but vision",
        "text": "language tower, no head",
        "unstated": "not stated",
        None: "",
    }[row["share"]]
    yield row["verdict"]


def _published(cell: Cell) -> tuple[Published | None, str]:
    for row, backbone, method, source in _known():
        if (backbone, method) == (cell.backbone, cell.method) and row.tasks in (
            None,
            len(cell.parts),
        ):
            return row, source
    return None, ""


@cache
def _known() -> tuple[tuple[Published, Choice, Choice, str], ...]:
    file = parse(PublishedFile, load_yaml(PUBLISHED), str(PUBLISHED))
    return tuple(
        (
            row,
            _choice(BACKBONES, row.backbone),
            _choice(METHODS, row.method),
            file.sources[row.source],
        )
        for row in file.rows
    )


def _choice(registry: Registry[Any], item: dict[str, JSON]) -> Choice:
    settings = {key: value for key, value in item.items() if key != "name"}
    return Choice(
        item["name"], dump_identity(parse(registry.load(item["name"]), settings, str(PUBLISHED)))
    )
