"""`vlpeft table NAME` where a paper has a table of that name: each printed number beside what was measured, and a verdict.

reproduced      the difference is within the larger of 2 standard deviations (measured) and the table's tolerance
off             it is not
not run         cells are missing or have failed
cannot run      no cell can reproduce it; the reason stands below
not comparable  the cells are of tiny towers or embedded data, or the paper's number is of something else, or it does not say of what
unknown         something was measured, but the printed number was not found
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vlpeft.benchmark.cells.cell import Plan
from vlpeft.benchmark.cells.records import Store
from vlpeft.results.papers.measured import MeasuredValue, Measurements
from vlpeft.results.papers.published import Number, PublishedTable
from vlpeft.results.scale import label_title
from vlpeft.results.tables.table import Block, Footnotes, Table, Text, one_line, percent

Verdict = Literal["reproduced", "off", "not run", "cannot run", "not comparable", "unknown"]
STYLES: dict[Verdict, str] = {
    "reproduced": "green",
    "off": "bold red",
    "not run": "yellow",
    "cannot run": "dim",
    "not comparable": "dim",
}
HEADER = ("row", "column", "published", "measured", "difference", "verdict")


@dataclass(frozen=True)
class Comparison:
    """A printed number, its measurement, and what is to be thought of them; `reason` says why there is no judgement."""

    number: Number
    outcome: MeasuredValue
    verdict: Verdict
    reason: str

    @property
    def difference(self) -> float | None:
        """Measured minus published; None where the two cannot be set against each other."""
        if (
            self.verdict not in ("reproduced", "off")
            or self.outcome.mean is None
            or self.number.value is None
        ):
            return None
        return self.outcome.mean - self.number.value


def compare(table: PublishedTable, plan: Plan | None, store: Store | None) -> list[Comparison]:
    """Every number of a published table beside what the plan's cells have measured; without a plan nothing is."""
    return _comparisons(table, Measurements(table, plan, store))


def published_table(
    name: str, table: PublishedTable, plan: Plan | None, store: Store | None, *, mixed: bool = False
) -> Table:
    """For `vlpeft.results.tables.render.render`: one line a number, one block a group of rows. `mixed` as for `leaderboard`."""
    measurements, footnotes = Measurements(table, plan, store, mixed), Footnotes()
    comparisons = _comparisons(table, measurements)
    blocks = tuple(
        _block(group.name, [c for c in comparisons if c.number.group is group], table, footnotes)
        for group in table.groups
    )
    data = tuple(_plain(name, table, comparison) for comparison in comparisons)
    title = label_title(table.title, [cell.cell for cell in plan.cells] if plan else [])
    said = measurements.board.remarks if measurements.board else ()
    caption = tuple(_caption(table, comparisons))
    return Table(
        one_line(title), caption, blocks, data, footnotes.list_notes(), table.notes, remarks=said
    )


def _comparisons(table: PublishedTable, measurements: Measurements) -> list[Comparison]:
    return [_compared(number, measurements) for number in table.numbers()]


def _compared(number: Number, measurements: Measurements) -> Comparison:
    if number.why_impossible or not number.column.is_linked:
        found = MeasuredValue(state="nothing to measure")
    else:
        found = measurements.outcome(number.group, number.row, number.column)
    return Comparison(number, found, *_verdict(number, found))


def _verdict(number: Number, found: MeasuredValue) -> tuple[Verdict, str]:
    kind, _, reason = found.state.partition(": ")
    if number.why_impossible or kind == "skipped":
        return "cannot run", number.why_impossible or reason
    if number.column.is_linked and found.mean is None:
        return "not run", _why(kind, reason, found)
    if found.small or number.why_not_comparable:
        return "not comparable", ", ".join(found.small) or number.why_not_comparable
    return _judged(number, found.mean or 0.0, found.std)


def _judged(number: Number, mean: float, std: float | None) -> tuple[Verdict, str]:
    if number.value is None:
        return "unknown", number.row.unknown
    near = abs(mean - number.value) <= max(2 * (std or 0.0), number.column.tolerance)
    return ("reproduced" if near else "off"), ""


def _why(kind: str, reason: str, found: MeasuredValue) -> str:
    if kind == "missing":
        return f"{len(found.values)} of {found.planned} seeds are done" if found.values else ""
    return f"{kind}: {reason}"


def _caption(table: PublishedTable, comparisons: Sequence[Comparison]) -> Iterator[str]:
    yield from _sources(table)
    yield f"Measured: mean ± standard deviation (ddof=1) over n seeds. {percent(column.metric for column in table.columns)}"
    counts = Counter(comparison.verdict for comparison in comparisons)
    listed = ", ".join(
        f"{counts[verdict]} {verdict}" for verdict in (*STYLES, "unknown") if counts[verdict]
    )
    yield f"{len(comparisons)} lines, one a number: {listed}.{_not_new(comparisons)}"
    points = ", ".join(
        f"{column.name} {column.tolerance:g}" for column in table.columns if column.tolerance
    )
    if points:
        yield f"Reproduced: within the larger of 2 standard deviations (measured) and the tolerance. Tolerance in points: {points}."
    yield f"Tolerance: {table.tolerance}."


def _sources(table: PublishedTable) -> Iterator[str]:
    """One line an address, however many ways its numbers were read."""
    reads: dict[tuple[str, bool], list[str]] = {}
    for source in table.sources.values():
        reads.setdefault((source.url, source.primary), []).append(source.read)
    for (url, primary), read in reads.items():
        yield f"Published: {url} (read at {'first' if primary else 'second'} hand: {'; '.join(dict.fromkeys(read))})."


def _not_new(comparisons: Sequence[Comparison]) -> str:
    """Which lines add nothing to what the paper prints."""
    again = sum(comparison.number.row.again for comparison in comparisons)
    unknown = sum(
        comparison.number.value is None and not comparison.number.row.again
        for comparison in comparisons
    )
    counts = (
        (again, "repeat a number that is printed elsewhere"),
        (unknown, "have a printed number that was not found"),
    )
    return "".join(f" {count} of them {what}." for count, what in counts if count)


def _block(
    title: str, comparisons: Sequence[Comparison], table: PublishedTable, footnotes: Footnotes
) -> Block:
    rows = tuple(_line(comparison, table, footnotes) for comparison in comparisons)
    return Block(one_line(title), "llrrrl", (HEADER,), rows)


def _line(comparison: Comparison, table: PublishedTable, footnotes: Footnotes) -> tuple[Text, ...]:
    number = comparison.number
    digits = max(number.column.decimals, 1)
    return (
        Text(one_line(number.row.name), _marks(footnotes, _about(number, table))),
        Text(one_line(number.column.name), _marks(footnotes, number.column.note)),
        Text(
            _published(number),
            _marks(footnotes, number.row.unknown if number.value is None else ""),
        ),
        Text(_measured(comparison.outcome, digits)),
        Text("" if comparison.difference is None else f"{comparison.difference:+.{digits}f}"),
        Text(
            comparison.verdict,
            _marks(footnotes, comparison.reason),
            STYLES.get(comparison.verdict, ""),
        ),
    )


def _about(number: Number, table: PublishedTable) -> str:
    """What is special about a row's numbers."""
    if number.row.derived:
        return "derived from printed numbers, not printed itself"
    first = next(iter(table.sources.values()))
    return "" if number.source is first else f"{number.source.read}, {number.source.url}"


def _marks(footnotes: Footnotes, text: str) -> tuple[str, ...]:
    return (footnotes.mark(text),) if text else ()


def _published(number: Number) -> str:
    if number.value is None:
        return "?"
    std = "" if number.std is None else f" ± {number.std:.{number.column.decimals}f}"
    return f"{number.row.qualifier} {number.value:.{number.column.decimals}f}{std}".strip()


def _measured(found: MeasuredValue, digits: int) -> str:
    if found.mean is None:
        return ""
    std = "" if found.std is None else f" ± {found.std:.{digits}f}"
    return f"{found.mean:.{digits}f}{std} (n={len(found.values)})"


def _plain(name: str, table: PublishedTable, comparison: Comparison) -> dict[str, Any]:
    number, found = comparison.number, comparison.outcome
    return {
        "published_table": name,
        "paper": table.paper,
        "table": table.table,
        "group": number.group.name,
        "row": number.row.name,
        "column": number.column.name,
        "metric": number.column.metric,
        "split": number.column.split,
        "published": number.value,
        "published_std": number.std,
        "qualifier": number.row.qualifier,
        "derived": number.row.derived,
        "again": number.row.again,
        "source": number.source.url,
        "primary": number.source.primary,
        "read": number.source.read,
        "method": number.row.method,
        "backbone": number.group.backbone,
        "task": number.column.task,
        "measured_metric": number.column.measured,
        "mean": found.mean,
        "std": found.std,
        "n": len(found.values),
        "planned": found.planned,
        "difference": comparison.difference,
        "tolerance": number.column.tolerance,
        "verdict": comparison.verdict,
        "reason": comparison.reason,
    }
