"""The rows of a bench: two numbers, their ratio, and the required ratio.

Rows are printed as a table and kept as a file.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

from vlpeft.benchmark.cells.code import code
from vlpeft.benchmark.cells.provenance import provenance
from vlpeft.benchmark.core.config import parse_json
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.files import write_atomically

RatioLimit = Literal["at least", "at most"]
BenchVerdict = Literal["", "pass", "tie", "FAIL"]
HEADER = ("ours", "other", "", "ratio", "middle half", "asked for", "")


@dataclass(frozen=True)
class BenchSetting:
    """How to measure.

    `quick` only shows that a bench runs: the smallest sizes, in this process. Its numbers mean
    nothing.
    """

    device: str = "cpu"
    turns: int = 5
    quick: bool = False


@dataclass(frozen=True)
class BenchRow:
    """One comparison: the medians of both sides, and the median of the turns' ratios.

    Attributes:
        rule: "at least": other / ours, the factor that ours saves, must be `required` or more.
            "at most": ours / other must be `required` or less.
        required: The required ratio; None if the row is only for information.
        spread: The quartiles of the turns' ratios.
        points: For a curve, the cost in `unit` of each size. The ratio is then the exponent of
            a power law through them.
    """

    bench: str
    name: str
    unit: str
    ours: float
    other: float
    ratio: float
    rule: RatioLimit
    required: float | None
    turns: int = 1
    spread: tuple[float, float] | None = None
    points: dict[int, float] | None = None

    @property
    def verdict(self) -> BenchVerdict:
        """Whether the ratio is as required.

        It is a tie if the median falls short, but a quarter of the turns does not.
        """
        if self.required is None:
            return ""
        if self._enough(self.ratio):
            return "pass"
        return "tie" if self.spread is not None and any(map(self._enough, self.spread)) else "FAIL"

    def _enough(self, ratio: float) -> bool:
        required = cast("float", self.required)
        return ratio >= required if self.rule == "at least" else ratio <= required


def row(
    bench: str,
    name: str,
    unit: str,
    pairs: Sequence[tuple[float, float]],
    rule: RatioLimit,
    required: float | None,
) -> BenchRow:
    """Return the row for the pairs (ours, other) of some turns."""
    from statistics import median, quantiles

    ratios = [other / ours if rule == "at least" else ours / other for ours, other in pairs]
    mine, others = zip(*pairs, strict=True)
    spread = None
    if len(pairs) > 1:
        low, _, high = quantiles(ratios, n=4, method="inclusive")
        spread = low, high
    return BenchRow(
        bench,
        name,
        unit,
        median(mine),
        median(others),
        median(ratios),
        rule,
        required,
        len(pairs),
        spread,
    )


def run(name: str, setting: BenchSetting) -> Iterator[BenchRow]:
    """Run a bench; yield its rows as they are measured."""
    rows: Iterator[BenchRow] = import_module(f"vlpeft.benchmark.bench.{name}").run(setting)
    return rows


def as_dict(row: BenchRow) -> dict[str, Any]:
    """Return a row with its verdict as plain values, for scripts."""
    return {**asdict(row), "verdict": row.verdict}


def text(rows: Sequence[BenchRow]) -> str:
    """Return the rows as a text table."""
    table = [("", *HEADER), *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "".join(_line(cells, widths) + "\n" for cells in table)


def markdown(rows: Sequence[BenchRow]) -> str:
    """Return the rows as a Markdown table."""
    table = [
        ("", *HEADER),
        ("---", *["---:"] * 2, "---", *["---:"] * 3, "---"),
        *(_cells(row) for row in rows),
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def _cells(row: BenchRow) -> tuple[str, ...]:
    sign = {"at least": "≥", "at most": "≤"}[row.rule]
    asked = "" if row.required is None else f"{sign} {row.required:g}"
    spread = "" if row.spread is None else "{:.3g} to {:.3g}".format(*row.spread)
    return (
        f"{row.bench}: {row.name}",
        _number(row.ours),
        _number(row.other),
        row.unit,
        f"{row.ratio:.3g}",
        spread,
        asked,
        row.verdict,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    left = (0, 3, 7)  # names, units and verdicts
    return "  ".join(
        cell.ljust(w) if i in left else cell.rjust(w)
        for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()


def check_folder(folder: Path) -> None:
    """Create a folder before an hour is spent on measuring.

    Raises UserError if nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: {error.strerror}; choose a folder that can be written"
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot be written; choose another folder")


def new_file(folder: Path, setting: BenchSetting) -> Path:
    """Return a path for the rows of this run, named by time and environment.

    Raises UserError if the file exists already; no run overwrites that of another.
    """
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    machine = f"{platform.machine()}_{os.cpu_count()}cpu"
    device = setting.device.replace(":", "")
    path = folder / f"{now}_{machine}_torch{version('torch')}_{device}.json"
    if os.path.lexists(path):
        raise UserError(f"{path} exists already; run it again")
    return path


def keep(
    path: Path, rows: Sequence[BenchRow], setting: BenchSetting, before: Sequence[float]
) -> None:
    """Write the rows and their provenance. A run calls this after each of its benches.

    `before`: the load averages when the run began.
    """
    load = {
        "load_before": list(before),
        "load_after": list(os.getloadavg()),
    }  # more than one means that others ran, too
    where = {
        key: value for key, value in provenance(setting.device, code()).items() if key != "host"
    }  # the file may be published
    values = {
        **asdict(setting),
        **load,
        "provenance": where,
        "rows": [as_dict(row) for row in rows],
    }
    text = json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


@dataclass(frozen=True)
class _KeptRow:
    """The part of a kept file that is read again."""

    device: str
    rows: tuple[BenchRow, ...]


def newest_rows(folder: Path, chosen: Sequence[str], device: str) -> list[BenchRow]:
    """Return the newest kept row of everything that these benches measured on this device.

    cuda and cuda:0 count as the same device. Raises UserError for a file without rows, and if
    there is no row at all.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name the one that `--keep` has filled")
    found: dict[str, dict[str, BenchRow]] = {}
    for path in sorted(folder.glob("*.json")):  # by time
        kept = parse_json(
            _KeptRow, path.read_bytes(), f"{path}: holds no rows of a bench; delete it"
        )
        if kept.device.partition(":")[0] == device.partition(":")[0]:
            for row in kept.rows:
                found.setdefault(row.bench, {})[row.name] = row
    if not found.keys() & set(chosen):
        raise UserError(
            f"{folder}: nothing of {', '.join(chosen)} was kept here for --device {device}; "
            "measure it with `--keep`"
        )
    return [row for bench in chosen for row in found.get(bench, {}).values()]
