"""Which cells `vlpeft verify` has checks for."""

from __future__ import annotations

from vlpeft.benchmark.cells.cell import Cell

BACKBONES = ("vit_roberta", "vit_gpt2", "clip_bart", "blip")


def is_covered(cell: Cell) -> bool:
    """Whether there are checks of the cell's backbone; of one from another package there are none."""
    return cell.backbone.name in BACKBONES
