"""Words for messages."""

from __future__ import annotations


def count_cells(number: int) -> str:
    """Return "1 cell", "2 cells" and so on."""
    if number == 1:
        return "1 cell"
    return f"{number} cells"
