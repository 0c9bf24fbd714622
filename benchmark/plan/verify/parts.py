"""The parts of a verification, and which of them a cell uses.

This file imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vlpeft.benchmark.cells.cell import Cell
from vlpeft.benchmark.cells.verified import BACKBONES, is_covered
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.tasks import metric_names

ALWAYS = ("images", "tokenizers", "formulas")
CAPTION_METRICS = "vlpeft.benchmark.metrics.captions"  # the module
# Seconds on one core. They are printed before a verification begins.
SECONDS = {
    "images": 0.2,
    "tokenizers": 0.3,
    "formulas": 0.3,
    "answers": 0.2,
    "captions": 2.0,
    "vit_roberta": 3.0,
    "vit_gpt2": 4.0,
    "clip_bart": 6.0,
    "blip": 10.0,
}
PARTS = tuple(SECONDS)


def parts_of_cells(cells: Iterable[Cell]) -> tuple[str, ...]:
    """Return the parts that these cells use, in the order of PARTS."""
    used: set[str] = set()
    for cell in cells:
        used.update(_parts(cell))
    return tuple(part for part in PARTS if part in used)


def parts_of_backbone(name: str) -> tuple[str, ...]:
    """Return the parts that cells of a backbone may use."""
    return tuple(part for part in PARTS if part not in BACKBONES or part == name)


def _parts(cell: Cell) -> Iterator[str]:
    yield from ALWAYS
    # A backbone of another package has no checks here.
    if is_covered(cell):
        yield cell.backbone.name
    for part in cell.parts:
        for metric in metric_names(part.task, part.protocol.metrics):
            yield _part_of_metric(metric)


def _part_of_metric(name: str) -> str:
    if METRICS.entry(name).module == CAPTION_METRICS:
        return "captions"
    return "answers"
