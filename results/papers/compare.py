"""`vlpeft table NAME` for a table of a paper: each printed number next to what was measured.

The verdicts:

reproduced      the difference is at most the larger of 2 standard deviations (measured) and the
                table's tolerance
off             the difference is larger
not run         cells are missing or have failed
cannot run      no cell can reproduce the number; a footnote gives the reason
not comparable  the cells have tiny towers or embedded data, or the paper's number measures
                something else, or it does not say what it measures
unknown         something was measured, but the printed number was not found
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vlpeft.benchmark.cells.cell import Plan
from vlpeft.benchmark.cells.results import Results
from vlpeft.results.papers.measured import MeasuredValue, Measurements
from vlpeft.results.papers.published import Number, PublishedTable
from vlpeft.results.scale import label_title
from vlpeft.results.states import State
from vlpeft.results.tables.blocks import Block, Footnotes, Table, Text, one_line
from vlpeft.results.tables.captions import percent, plus_minus

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
    """A printed number, its measurement and the verdict. `reason` says why none was possible."""

    number: Number
    outcome: MeasuredValue
    verdict: Verdict
    reason: str

    @property
    def difference(self) -> float | None:
        """Measured minus published; None where the two cannot be compared."""
        if self.verdict not in ("reproduced", "off"):
            return None
        if self.outcome.mean is None or self.number.value is None:
            return None
        return self.outcome.mean - self.number.value


def compare(table: PublishedTable, plan: Plan | None, store: Results | None) -> list[Comparison]:
    """Compare every number of a published table with what the plan's cells measured.

    Without a plan, nothing was measured.
    """
    return _comparisons(table, Measurements(table, plan, store))


def published_table(
    name: str,
    table: PublishedTable,
    plan: Plan | None,
    store: Results | None,
    *,
    mixed: bool = False,
) -> Table:
    """Return a published table with measurements: a line a number, a block a group of rows.

    Raises UserError as `leaderboard` does, which also explains `mixed`.
    """
    measurements = Measurements(table, plan, store, mixed)
    comparisons = _comparisons(table, measurements)
    footnotes = Footnotes()
    blocks = []
    for group in table.groups:
        own = [comparison for comparison in comparisons if comparison.number.group is group]
        blocks.append(_block(group.name, own, table, footnotes))
    cells = [planned.cell for planned in plan.cells] if plan else []
    board = measurements.board
    return Table(
        one_line(label_title(table.title, cells)),
        tuple(_caption(table, comparisons)),
        tuple(blocks),
        tuple(_plain(name, table, comparison) for comparison in comparisons),
        footnotes.list_notes(),
        table.notes,
        remarks=board.remarks if board else (),
    )


def _comparisons(table: PublishedTable, measurements: Measurements) -> list[Comparison]:
    return [_compare_number(number, measurements) for number in table.numbers()]


def _compare_number(number: Number, measurements: Measurements) -> Comparison:
    if number.why_impossible or not number.column.is_linked:
        found = MeasuredValue(state=State("absent", "nothing to measure"))
    else:
        found = measurements.outcome(number.group, number.row, number.column)
    return Comparison(number, found, *_verdict(number, found))


def _verdict(number: Number, found: MeasuredValue) -> tuple[Verdict, str]:
    """Return the verdict, and why there is no judgement."""
    if number.why_impossible or found.state.is_skipped:
        return "cannot run", number.why_impossible or found.state.reason
    if number.column.is_linked and found.mean is None:
        return "not run", _why_not_run(found)
    if found.small or number.why_not_comparable:
        return "not comparable", ", ".join(found.small) or number.why_not_comparable
    return _judge(number, found.mean or 0.0, found.std or 0.0)


def _judge(number: Number, mean: float, std: float) -> tuple[Verdict, str]:
    """Compare a measured mean with the printed number."""
    if number.value is None:
        return "unknown", number.row.unknown
    if abs(mean - number.value) <= max(2 * std, number.column.tolerance):
        return "reproduced", ""
    return "off", ""


def _why_not_run(found: MeasuredValue) -> str:
    if found.state.kind != "missing":
        return str(found.state)
    if found.values:
        return f"{len(found.values)} of {found.planned} seeds are done"
    return ""


def _caption(table: PublishedTable, comparisons: Sequence[Comparison]) -> Iterator[str]:
    yield from _sources(table)
    unit = percent(column.metric for column in table.columns)
    yield f"Measured: mean ± standard deviation (ddof=1) over n seeds. {unit}"
    counts = Counter(comparison.verdict for comparison in comparisons)
    verdicts: tuple[Verdict, ...] = (*STYLES, "unknown")
    listed = ", ".join(f"{counts[verdict]} {verdict}" for verdict in verdicts if counts[verdict])
    repeated = "".join(_repeated(comparisons))
    yield f"{len(comparisons)} lines, one per number: {listed}.{repeated}"
    tolerant = [column for column in table.columns if column.tolerance]
    if tolerant:
        points = ", ".join(f"{column.name} {column.tolerance:g}" for column in tolerant)
        yield (
            "Reproduced: within the larger of 2 standard deviations (measured) and the tolerance. "
            f"Tolerance in points: {points}."
        )
    yield f"Tolerance: {table.tolerance}."


def _sources(table: PublishedTable) -> Iterator[str]:
    """Yield one line an address, with all the ways in which its numbers were read."""
    reads: dict[tuple[str, bool], list[str]] = {}
    for source in table.sources.values():
        reads.setdefault((source.url, source.primary), []).append(source.read)
    for (url, primary), read in reads.items():
        hand = "primary" if primary else "secondary"
        ways = "; ".join(dict.fromkeys(read))
        yield f"Published: {url} ({hand} source: {ways})."


def _repeated(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield sentences about lines that add nothing to what the paper prints."""
    again = sum(comparison.number.row.again for comparison in comparisons)
    if again:
        yield f" In {again} of them, the number is also printed elsewhere."
    numbers = (comparison.number for comparison in comparisons)
    unknown = sum(number.value is None and not number.row.again for number in numbers)
    if unknown:
        yield f" In {unknown} of them, the printed number was not found."


def _block(
    title: str, comparisons: Sequence[Comparison], table: PublishedTable, footnotes: Footnotes
) -> Block:
    rows = tuple(_line(comparison, table, footnotes) for comparison in comparisons)
    return Block(one_line(title), "llrrrl", (HEADER,), rows)


def _line(comparison: Comparison, table: PublishedTable, footnotes: Footnotes) -> tuple[Text, ...]:
    """Return the row of a number. The footnotes are marked from left to right."""
    number, verdict = comparison.number, comparison.verdict
    digits = max(number.column.decimals, 1)
    unknown = number.row.unknown if number.value is None else ""
    change = ""
    if comparison.difference is not None:
        change = f"{comparison.difference:+.{digits}f}"
    return (
        Text(one_line(number.row.name), _marks(footnotes, _about(number, table))),
        Text(one_line(number.column.name), _marks(footnotes, number.column.note)),
        Text(_published_text(number), _marks(footnotes, unknown)),
        Text(_measured_text(comparison.outcome, digits)),
        Text(change),
        Text(verdict, _marks(footnotes, comparison.reason), STYLES.get(verdict, "")),
    )


def _about(number: Number, table: PublishedTable) -> str:
    """Return what is special about a row's numbers."""
    if number.row.derived:
        return "derived from printed numbers, not printed itself"
    first = next(iter(table.sources.values()))
    if number.source is first:
        return ""
    return f"{number.source.read}, {number.source.url}"


def _marks(footnotes: Footnotes, text: str) -> tuple[str, ...]:
    if not text:
        return ()
    return (footnotes.mark(text),)


def _published_text(number: Number) -> str:
    if number.value is None:
        return "?"
    digits = number.column.decimals
    text = f"{number.row.qualifier} {number.value:.{digits}f}{plus_minus(number.std, digits)}"
    return text.strip()


def _measured_text(found: MeasuredValue, digits: int) -> str:
    if found.mean is None:
        return ""
    return f"{found.mean:.{digits}f}{plus_minus(found.std, digits)} (n={len(found.values)})"


def _plain(name: str, table: PublishedTable, comparison: Comparison) -> dict[str, Any]:
    """Return everything about a number as one flat row."""
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
