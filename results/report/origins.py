"""Tables of the report about failures, missing values and the provenance of records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vlpeft.benchmark.cells.cell import Planned
from vlpeft.benchmark.cells.records import Record
from vlpeft.results.leaderboard import Leaderboard
from vlpeft.results.states import parse_states
from vlpeft.results.tables.blocks import Block, Text, one_line

LISTED = 12  # ids that a row lists


@dataclass(frozen=True)
class FailedAttempt:
    """A cell whose last attempt failed."""

    cell: Planned
    cause: str
    message: str


def failures_and_reasons(failed: Iterable[FailedAttempt], board: Leaderboard) -> Iterator[Block]:
    """Yield failures by cause, then what was ruled out or could not be computed, by reason."""
    causes: dict[str, list[FailedAttempt]] = {}
    for each in failed:
        causes.setdefault(each.cause, []).append(each)
    if causes:
        ordered = sorted(causes.items(), key=lambda item: (-len(item[1]), item[0]))
        rows = tuple(_cause_row(cause, cells) for cause, cells in ordered)
        header = ("cause", "cells", "methods", "first message", "ids")
        yield Block("Failed cells, by cause", "lrlll", (header,), rows)
    reasons = _reasons(board)
    if reasons:
        rows = tuple(
            _row(kind, len(ids), reason) for (kind, reason), ids in sorted(reasons.items())
        )
        title = "Cells that the grid rules out, and metrics that could not be computed"
        yield Block(title, "lrl", (("what", "cells", "reason"),), rows)


def _cause_row(cause: str, failed: Sequence[FailedAttempt]) -> tuple[Text, ...]:
    methods = ", ".join(dict.fromkeys(each.cell.row for each in failed))
    ids = ", ".join(each.cell.id for each in failed[:LISTED])
    if len(failed) > LISTED:
        ids += f" and {len(failed) - LISTED} more"
    return _row(cause, len(failed), methods, failed[0].message, ids)


def _reasons(board: Leaderboard) -> dict[tuple[str, str], set[str]]:
    """Return the ids of cells without a value, by state and reason."""
    reasons: dict[tuple[str, str], set[str]] = {}
    states, ids = parse_states(board.frame["state"]), board.frame["id"].tolist()
    for state, cell_id in zip(states, ids, strict=True):
        if state.kind in ("skipped", "absent"):
            reasons.setdefault((state.kind, state.reason), set()).add(cell_id)
    return reasons


def provenance_block(records: Iterable[Record]) -> Block:
    """Return each distinct value of the records' provenance, and how many records have it."""
    counts: Counter[tuple[str, str]] = Counter()
    for record in records:
        counts.update(_provenance(record.provenance))
    rows = tuple(_row(name, value, number) for (name, value), number in sorted(counts.items()))
    return Block("", "llr", (("what", "value", "records"),), rows)


def _provenance(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the provenance of a record as names and texts. Of the time it keeps the day."""
    for name, value in values.items():
        if name == "host":  # the page may be published
            continue
        if name == "finished":
            yield "finished on", str(value)[:10]
        elif isinstance(value, Mapping):
            for inner, each in value.items():
                yield f"{name}.{inner}", str(each)
        else:
            yield name, str(value)


def _row(*values: str | int) -> tuple[Text, ...]:
    return tuple(map(_text, values))


def _text(value: str | int) -> Text:
    if isinstance(value, int):
        return Text(f"{value:,}")
    return Text(one_line(value))
