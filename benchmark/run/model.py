"""Build the adapted model of a cell."""

from __future__ import annotations

from collections.abc import Sequence

from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.cells.cell import Cell
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.contract.backbone import Backbone, BackboneConfig
from vlpeft.benchmark.contract.fit import check_fit
from vlpeft.benchmark.contract.method import Method, apply
from vlpeft.benchmark.core.config import parse


def build(cell: Cell, answers: Sequence[str]) -> Backbone:
    """Return the adapted model of a cell, on the CPU.

    Args:
        cell: names backbone and method, and holds their settings.
        answers: the closed answer list; empty where text is written freely.

    Raises:
        UserError: the method's settings do not fit the backbone, or the tokenizer, token table
            and positions of its towers do not fit each other.
    """
    name = cell.backbone.name
    config: BackboneConfig = parse(BACKBONES.load(name), cell.backbone.settings, f"backbone {name}")
    method: Method = parse(
        METHODS.load(cell.method.name), cell.method.settings, f"method {cell.method.name}"
    )
    backbone = config.build(answers, cell.protocol)
    # Methods with weights for each task, such as Hyperformer, must know the number of tasks.
    backbone.active_task.count = len(cell.parts)
    apply(method, backbone)
    check_fit(backbone)
    return backbone
