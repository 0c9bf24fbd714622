"""The cells that `vlpeft verify` has checks for."""

from __future__ import annotations

from vlpeft.benchmark.cells.cell import Cell

BACKBONES = ("vit_roberta", "vit_gpt2", "clip_bart", "blip")


def is_covered(cell: Cell) -> bool:
    """True if there are checks of the cell's backbone; backbones of other packages have none."""
    return cell.backbone.name in BACKBONES
