"""Words for messages."""

from __future__ import annotations


def count_cells(number: int) -> str:
    """Return "1 cell", "2 cells" and so on."""
    return count_things(number, "cell")


def count_things(number: int, thing: str) -> str:
    """Return a number with a noun that takes an s in the plural."""
    if number == 1:
        return f"1 {thing}"
    return f"{number} {thing}s"
