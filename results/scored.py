"""How many examples a table's numbers were scored on, where that is not the whole split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vlpeft.benchmark.cells.provenance import describe_scored
from vlpeft.benchmark.cells.records import Record


def scored_sentences(records: Iterable[Record]) -> Iterator[str]:
    """Yield a sentence for each task of which only a part of the split was scored."""
    found: dict[str, None] = {}
    for record in records:
        for text in describe_scored(record.provenance):
            found[text] = None
    for text in found:
        yield f"Scored on part of a split: {text}."
