"""Build the adapted model of a cell."""

from __future__ import annotations

from collections.abc import Sequence

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Cell
from vlpeft.benchmark.contract.backbone import Backbone, BackboneConfig
from vlpeft.benchmark.contract.method import METHODS, Method, apply
from vlpeft.benchmark.core.config import parse


def build(cell: Cell, answers: Sequence[str]) -> Backbone:
    """The adapted model of a cell. Raises UserError where the method's settings do not fit the backbone."""
    config: BackboneConfig = parse(
        BACKBONES.load(cell.backbone.name), cell.backbone.settings, f"backbone {cell.backbone.name}"
    )
    method: Method = parse(
        METHODS.load(cell.method.name), cell.method.settings, f"method {cell.method.name}"
    )
    backbone = config.build(answers, cell.protocol)
    backbone.active_task.count = len(cell.parts)
    apply(method, backbone)
    return backbone
