"""What a record says of the files that its cell has read."""

from __future__ import annotations

from collections.abc import Iterator

from vlpeft.benchmark.cells.cell import Part, Planned
from vlpeft.benchmark.cells.records import Record


def recorded_images(planned: Planned, record: Record) -> Iterator[tuple[Part, str]]:
    """Yield the tasks of a finished cell with what its record says of their images, if anything."""
    recorded = record.provenance.get("images")
    values = recorded.split("+") if isinstance(recorded, str) else []
    if len(values) == len(planned.cell.parts):
        yield from zip(planned.cell.parts, values, strict=True)
