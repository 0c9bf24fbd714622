"""What makes a cell small: towers that ship with the package, data that comes inside it. Such results are labelled wherever they show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vlpeft.benchmark.cells.cell import Cell

TINY, EMBEDDED = "tiny towers", "embedded data"
FULL = "full size"


def scale_notes(cell: Cell) -> tuple[str, ...]:
    """What makes the cell's numbers incomparable with those of papers; empty for a full-size cell."""
    tiny = any(value == "tiny" for value in cell.backbone.settings.values())
    embedded = any(part.dataset.root == "" for part in cell.parts)
    return (*((TINY,) if tiny else ()), *((EMBEDDED,) if embedded else ()))


def label_title(title: str, cells: Sequence[Cell]) -> str:
    """The title, with what makes the cells small unless it says so itself (all the label's words)."""
    words = title.lower().replace(",", " ").replace(":", " ").split()
    labels = [
        f"{label}{extent}"
        for label, extent in _labels(cells)
        if not set(label.split()) <= set(words)
    ]
    return f"{title} ({', '.join(labels)})" if labels else title


def _labels(cells: Iterable[Cell]) -> Iterable[tuple[str, str]]:
    found = [scale_notes(cell) for cell in cells]
    for label in (TINY, EMBEDDED):
        times = sum(label in each for each in found)
        if times:
            yield label, "" if times == len(found) else " in part"
