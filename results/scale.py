"""What makes a cell small: tiny towers that ship with the package, or data embedded in it.

Numbers of small cells cannot be compared with those of papers, so every table labels them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vlpeft.benchmark.cells.cell import Cell

TINY = "tiny towers"
EMBEDDED = "embedded data"
FULL = "full size"


def scale_notes(cell: Cell) -> tuple[str, ...]:
    """Return what makes the cell's numbers incomparable with those of papers.

    The result is empty for a full-size cell.
    """
    notes = []
    if any(value == "tiny" for value in cell.backbone.settings.values()):
        notes.append(TINY)
    if any(part.dataset.root == "" for part in cell.parts):
        notes.append(EMBEDDED)
    return tuple(notes)


def label_title(title: str, cells: Sequence[Cell]) -> str:
    """Return the title of a table with labels for small cells.

    A label is left out where the title already contains all of its words.
    """
    words = set(title.lower().replace(",", " ").replace(":", " ").split())
    labels = []
    for label, extent in _labels(cells):
        if not set(label.split()) <= words:
            labels.append(f"{label}{extent}")
    if not labels:
        return title
    return f"{title} ({', '.join(labels)})"


def _labels(cells: Iterable[Cell]) -> Iterator[tuple[str, str]]:
    """Yield each label that applies, and " in part" where it does not apply to all cells."""
    notes = [scale_notes(cell) for cell in cells]
    for label in (TINY, EMBEDDED):
        count = sum(label in each for each in notes)
        if count == len(notes) and count > 0:
            yield label, ""
        elif count > 0:
            yield label, " in part"
